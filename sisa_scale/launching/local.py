"""This machine: a run under a Ray of its own, to its end."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from sisa_scale.config.run import RunConfig
from sisa_scale.launching.launcher import Ended, Launcher
from sisa_scale.launching.profiles.local import LocalProfile
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.submission import Job
from sisa_scale.runs.layout import REPORT, holds_run


class LocalLauncher(Launcher[LocalProfile]):
    """Runs in this process."""

    def plan(self, job: Job, folder: Path, profile: LocalProfile) -> "LocalJob":
        """Return the run; it has no folder of its own."""
        return LocalJob(job.config, job.overrides)


@dataclass(frozen=True)
class LocalJob:
    """A run in this process."""

    config: RunConfig
    overrides: tuple[str, ...]

    @property
    def run_dirs(self) -> tuple[Path, ...]:
        """The directory of the run."""
        return (self.config.directory,)

    def describe(self) -> str:
        """Return the command of the same effect."""
        run_dir = str(self.config.directory)
        if self._exists():
            return shlex.join(["sisa-scale", "resume", run_dir, *self.overrides])
        return f"# the recipe with its overrides resolved, then: sisa-scale train into {shlex.quote(run_dir)}"

    def submit(self, reporter: Reporter) -> Ended:
        """Begin or continue it, and run it to its end."""
        from sisa_scale.launching.start import begin, reopen

        config = reopen(self.config.directory, self.overrides) if self._exists() else begin(self.config)
        return run_to_end(config, reporter)

    def _exists(self) -> bool:
        return holds_run(self.config.directory)


def run_to_end(config: RunConfig, reporter: Reporter) -> Ended:
    """Launch a run whose directory is ready, wait for its end and draw its report.

    Raises the SisaScaleError of a worker, or TrainingError when workers were lost more often than allowed.
    """
    from sisa_scale.orchestration.launch import launch
    from sisa_scale.reporting.html import write_report

    with reporter.watch(config) as look:
        outcome = launch(config, look, reporter.announce)
    # Where the machine is taken away there is no time to draw.
    report = None if outcome == "preempted" else write_report([config.directory], config.directory / REPORT)
    return Ended(config.directory, outcome, report)
