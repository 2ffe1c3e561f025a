"""What launching tells, on the console."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from sisa_scale.cli.common.console import RunProgress, announce, console
from sisa_scale.config.run import RunConfig
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.submission import Submission


class ConsoleReporter(Reporter):
    """Prints sentences and lines, draws the progress of a run, and says how to follow a job."""

    def __init__(self) -> None:
        super().__init__(announce)

    def line(self, text: str) -> None:
        """Print a line of a job as it is."""
        click.echo(text)

    def submitted(self, submission: Submission) -> None:
        """Say where a job is, and how to follow it."""
        run_dir, here = Path(submission.folder).parent.parent, Path.cwd()
        shown = run_dir.relative_to(here) if run_dir.is_relative_to(here) else run_dir
        rows = [("job", f"{submission.job_id} ({submission.target})"), ("files", submission.folder)]
        rows += [(verb, f"sisa-scale {verb} {shlex.quote(str(shown))}") for verb in ("logs", "cancel")]
        for label, value in rows:
            console.print(f"[bold]{label:<7}[/bold] {value}", soft_wrap=True, markup=True)

    @contextmanager
    def watch(self, config: RunConfig) -> Iterator[Callable[[], None]]:
        """Draw the steps of a run while it works."""
        progress = RunProgress(config.directory, config.data.batches, config.total_steps)
        try:
            yield progress.update
        finally:
            progress.close()
