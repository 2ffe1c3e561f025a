"""`torchrun ... sisa-scale worker RECIPE`: the same worker as under Ray, for clusters without it."""

import os
from contextlib import nullcontext, suppress

import click

from sisa_scale.cli.common.failing import print_error
from sisa_scale.errors import SisaScaleError
from sisa_scale.runs.exit_codes import PREEMPTED, ROLLED_BACK, end_process
from sisa_scale.runs.stop_request import listen_for_signals


@click.command("worker")
@click.argument("recipe_or_run_dir")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), required=True, help="What this worker computes on.")
@click.option("--take-over", "takes_over", is_flag=True, help="End another life of the run, without its last steps.")
def command(recipe_or_run_dir: str, overrides: tuple[str, ...], device: str, *, takes_over: bool) -> None:
    """Be one worker of a new run (RECIPE) or of a run to continue (RUN_DIR); torchrun starts one for each device.

    SIGTERM, SIGUSR1 and SIGHUP save a checkpoint and end the worker with exit code 75: put the job back into the queue.
    Under `torchrun --max-restarts` a restarted worker continues the run that its recipe began.
    """
    listen_for_signals()  # before the imports that take seconds
    from sisa_scale.launching.start import has_ended, join_run
    from sisa_scale.runs.directory import RunDirectory
    from sisa_scale.runs.owner import FencedError, Life
    from sisa_scale.runs.problems import RunDirectoryError
    from sisa_scale.training.engine.communicator import leave
    from sisa_scale.training.hooks.rollback import RollBackError
    from sisa_scale.training.worker import work

    is_main = os.environ.get("RANK") == "0"
    overrides = (*overrides, f"resources.workers={os.environ.get('WORLD_SIZE', '1')}")
    config = join_run(recipe_or_run_dir, overrides, is_main=is_main, takes_over=takes_over)
    if has_ended(config):
        click.echo(f"{config.directory} has taken all {config.total_steps} steps; nothing is changed")
        return
    directory = RunDirectory(config.directory)
    if is_main and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        directory.stop_path.unlink(missing_ok=True)
    try:
        with Life(config.directory) if is_main else nullcontext() as life:
            try:
                outcome = work(config, device, fence=life)
            except (RollBackError, SisaScaleError) as error:
                if is_main and not isinstance(error, FencedError):
                    with suppress(RunDirectoryError):  # it may be what the error is about
                        directory.close_attempt()
                raise
    except RollBackError as error:
        click.echo(str(error), err=True)
        end_process(ROLLED_BACK)
    except SisaScaleError as error:
        print_error(error)
        end_process(error.exit_code)
    leave(PREEMPTED if outcome == "preempted" else 0)
