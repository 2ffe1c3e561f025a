"""`torchrun ... sisa-scale worker RECIPE`: the same worker as under Ray, for clusters without it."""

import os
from pathlib import Path

import click

from sisa_scale.cli.failing import print_error
from sisa_scale.cli.starting import begin, reopen, with_absolute_paths
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import SisaScaleError
from sisa_scale.planning.twins import load_recipe
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.exit_codes import PREEMPTED, ROLLED_BACK, end_process
from sisa_scale.runs.layout import config_path
from sisa_scale.runs.stop_request import listen_for_signals
from sisa_scale.training.engine.communicator import leave
from sisa_scale.training.hooks.rollback import RollBackError
from sisa_scale.training.worker import work


@click.command("worker")
@click.argument("recipe_or_run_dir")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), required=True, help="What this worker computes on.")
def command(recipe_or_run_dir: str, overrides: tuple[str, ...], device: str) -> None:
    """Be one worker of a new run (RECIPE) or of a run to continue (RUN_DIR); torchrun starts one for each device.

    SIGTERM and SIGUSR1 save a checkpoint and end the worker with exit code 75: put the job back into the queue. Under
    `torchrun --max-restarts` a restarted worker continues the run that its recipe began.
    """
    listen_for_signals()
    is_main = os.environ.get("RANK") == "0"
    overrides = (*overrides, f"resources.workers={os.environ.get('WORLD_SIZE', '1')}")
    config = _prepare(recipe_or_run_dir, overrides, is_main=is_main)
    if is_main:
        RunDirectory(config.directory).stop_path.unlink(missing_ok=True)
    try:
        outcome = work(config, device)
    except RollBackError as error:
        click.echo(str(error), err=True)
        end_process(ROLLED_BACK)
    except SisaScaleError as error:
        print_error(error)
        end_process(error.exit_code)
    leave(PREEMPTED if outcome == "preempted" else 0)


def _prepare(recipe_or_run_dir: str, overrides: tuple[str, ...], *, is_main: bool) -> RunConfig:
    path = Path(recipe_or_run_dir)
    recipe = config_path(path) if path.is_dir() else recipe_or_run_dir
    config = with_absolute_paths(load_recipe(recipe, overrides).config)
    was_restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if not is_main:
        return config
    if path.is_dir():
        reopen(path, overrides)
    elif not was_restarted or not RunDirectory(config.directory).config_path.exists():
        begin(config)
    return config
