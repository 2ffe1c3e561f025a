"""What `train`, `resume` and `quickstart` share: carry a run to its end and say what it left."""

from pathlib import Path

import click

from sisa_scale.cli.console import RunProgress, announce, console
from sisa_scale.config.run import RunConfig
from sisa_scale.orchestration.launch import launch
from sisa_scale.reporting.html import write_report
from sisa_scale.runs.exit_codes import PREEMPTED
from sisa_scale.runs.layout import REPORT
from sisa_scale.runs.outcome import Outcome


def run_to_end(config: RunConfig) -> None:
    """Launch a run, draw its report, and say where everything is; exits with PREEMPTED when it is to be resumed."""
    progress = RunProgress(config.directory, config.total_steps)
    try:
        outcome = launch(config, progress.update, announce)
    finally:
        progress.close()
    # Where the machine is taken away there is no time to draw.
    report = None if outcome == "preempted" else write_report([config.directory], config.directory / REPORT)
    describe(config.directory, report, outcome)
    if outcome != "finished":
        raise click.exceptions.Exit(PREEMPTED)


def describe(run_dir: Path, report: Path | None, outcome: Outcome) -> None:
    """Print the last lines of a run."""
    following = f"sisa-scale evaluate {run_dir}" if outcome == "finished" else f"sisa-scale resume {run_dir}"
    for label, value in (("run", f"{run_dir} ({outcome})"), ("report", report), ("next", following)):
        if value is not None:
            console.print(f"[bold]{label:<7}[/bold] {value}", soft_wrap=True)
