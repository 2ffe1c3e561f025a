"""`sisa-scale logs RUN_DIR`."""

import sys
from pathlib import Path

import click


@click.command("logs")
@click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--follow", is_flag=True, help="Go on until the job is over; the exit code is 1 when it failed.")
def command(run_dir: Path, follow: bool) -> None:
    """Print what the newest submitted job of the run in RUN_DIR has printed, on whichever cluster it runs."""
    from sisa_scale.cli.common.reporter import ConsoleReporter
    from sisa_scale.launching.registry import launcher_of
    from sisa_scale.launching.submission import newest_submission

    submission = newest_submission(run_dir)
    launcher = launcher_of(submission)
    if follow:
        sys.exit(0 if launcher.follow(submission, ConsoleReporter()) else 1)
    click.echo(launcher.logs(submission), nl=False)
