"""`sisa-scale resume RUN_DIR [key=value ...]`."""

from pathlib import Path

import click

from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.cli.console import announce
from sisa_scale.cli.running import expect_signals, run_and_describe
from sisa_scale.launching.start import reopen


@click.command("resume")
@click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--take-over", "takes_over", is_flag=True, help="End another life of the run, without its last steps.")
def command(run_dir: Path, overrides: tuple[str, ...], *, takes_over: bool) -> None:
    """Continue the run in RUN_DIR from its newest checkpoint.

    Workers, ZeRO stage and everything about how it runs may change (workers=4 zero_stage=3); model, data and seed may
    not. Every step stands in metrics.jsonl once.
    """
    expect_signals()
    config = reopen(run_dir, overrides, takes_over=takes_over)
    steps = CheckpointStore(config.directory, config.checkpoint.directory).steps()
    if steps and steps[-1] >= config.total_steps:
        announce(f"{run_dir} has taken all {config.total_steps} steps; go on with schedule.total='N steps'")
        return
    announce(f"resuming {run_dir} from step {steps[-1] if steps else 0} of {config.total_steps}")
    run_and_describe(config)
