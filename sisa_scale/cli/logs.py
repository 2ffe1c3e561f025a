"""`sisa-scale logs RUN_DIR`."""

import sys
from pathlib import Path

import click

from sisa_scale.launching.submission import newest_submission


@click.command("logs")
@click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--follow", is_flag=True, help="Go on until the job is over; the exit code is 1 when it failed.")
def command(run_dir: Path, follow: bool) -> None:
    """Print what the newest submitted job of the run in RUN_DIR has printed, on whichever cluster it runs."""
    submission = newest_submission(run_dir)
    from sisa_scale.cli.following import follow_logs, print_logs

    if follow:
        sys.exit(follow_logs(submission))
    print_logs(submission)
