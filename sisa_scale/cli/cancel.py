"""`sisa-scale cancel RUN_DIR`."""

from pathlib import Path

import click

from sisa_scale.cli.common.console import announce


@click.command("cancel")
@click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--now", "at_once", is_flag=True, help="Kill it, without a checkpoint.")
def command(run_dir: Path, at_once: bool) -> None:
    """Tell the submitted run in RUN_DIR to save and stop; one that waits in a queue leaves it."""
    from sisa_scale.cli.common.reporter import ConsoleReporter
    from sisa_scale.launching.registry import launcher_of
    from sisa_scale.launching.submission import newest_submission
    from sisa_scale.launching.submit import living_submissions

    newest = newest_submission(run_dir)
    living = [submission for submission, _ in living_submissions(run_dir, ConsoleReporter())] or [newest]
    for submission in living:
        launcher = launcher_of(submission)
        launcher.cancel(submission, at_once=at_once)
        announce(f"job {submission.job_id}: {launcher.state(submission)}")
