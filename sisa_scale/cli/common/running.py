"""What `train`, `resume`, `submit` and `quickstart` share: carry a run to its end and say what it left."""

import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from sisa_scale.cli.common.console import announce, console
from sisa_scale.cli.common.reporter import ConsoleReporter
from sisa_scale.config.run import RunConfig
from sisa_scale.launching.launcher import Ended
from sisa_scale.launching.local import run_to_end
from sisa_scale.runs.exit_codes import PREEMPTED
from sisa_scale.runs.stop_request import stop_signals


def expect_signals() -> None:
    """Take a signal that comes before the run is launched: nothing is lost, and the exit code says so.

    `launch` listens for itself as long as it lasts.
    """

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        announce(f"{signal.Signals(number).name}: nothing was running; to be started again")
        sys.exit(PREEMPTED)

    for name in stop_signals():
        if name != signal.SIGINT:
            signal.signal(name, end)


def run_and_describe(config: RunConfig) -> None:
    """Run to the end, and say where everything is; exits with PREEMPTED when the run is to be resumed."""
    describe(run_to_end(config, ConsoleReporter()))


def describe(ended: Ended) -> None:
    """Print the last lines of a run; exits with PREEMPTED when it is to be resumed."""
    run_dir, is_finished = ended.run_dir, ended.outcome == "finished"
    following = f"sisa-scale evaluate {run_dir}" if is_finished else f"sisa-scale resume {run_dir}"
    for label, value in (("run", f"{run_dir} ({ended.outcome})"), ("report", ended.report), ("next", following)):
        if value is not None:
            console.print(f"[bold]{label:<7}[/bold] {value}", soft_wrap=True)
    if not is_finished:
        raise click.exceptions.Exit(PREEMPTED)
