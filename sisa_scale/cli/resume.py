"""`sisa-scale resume RUN_DIR [key=value ...]`."""

from pathlib import Path

import click

from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.cli.common.console import announce
from sisa_scale.cli.common.reporter import ConsoleReporter
from sisa_scale.cli.common.running import expect_signals, run_and_describe
from sisa_scale.launching.going_back import go_back
from sisa_scale.launching.start import reopen


@click.command("resume")
@click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--take-over", "takes_over", is_flag=True, help="End another life of the run, without its last steps.")
@click.option("--from-step", type=click.IntRange(min=1), metavar="N", help="Go back to the checkpoint of step N first.")
def command(run_dir: Path, overrides: tuple[str, ...], *, takes_over: bool, from_step: int | None) -> None:
    """Continue the run in RUN_DIR from its newest checkpoint.

    Workers, ZeRO stage and everything about how it runs may change (workers=4 zero_stage=3); model, data and seed may
    not. Every step stands in metrics.jsonl once. With --from-step, later checkpoints and lines are kept aside.
    """
    expect_signals()
    config = reopen(run_dir, overrides, takes_over=takes_over, from_step=from_step)
    steps = CheckpointStore(config.directory, config.checkpoint.directory).steps()
    start = from_step or (steps[-1] if steps else 0)
    if start >= config.total_steps:
        announce(f"{run_dir} has taken all {config.total_steps} steps; go on with schedule.total='N steps'")
        return
    if from_step is not None:
        go_back(config, from_step, ConsoleReporter())
    announce(f"resuming {run_dir} from step {start} of {config.total_steps}")
    run_and_describe(config)
