"""What a launcher is: how runs get to one kind of place, and how they are asked after there.

`registry.py` holds the table of launchers; docs/extending-launcher.md adds one. A launcher keeps nothing between calls:
what it needs stands in the profile before a submission, and in the note of the submission afterwards.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from sisa_scale.config.run import RunConfig
from sisa_scale.launching.doctor.finding import Finding
from sisa_scale.launching.profiles.profile import Profile
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.submission import Job, Submission
from sisa_scale.runs.outcome import Outcome

P = TypeVar("P", bound=Profile)


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that worked here and ended. report: its page, None where there was no time to draw one."""

    run_dir: Path
    outcome: Outcome
    report: Path | None


class PlannedJob(Protocol):
    """A job that has been checked as far as it can be from here."""

    @property
    def run_dirs(self) -> tuple[Path, ...]:
        """The directories of its runs; where this machine does not see them, that of the notes of their submissions."""
        ...

    def describe(self) -> str:
        """Return exactly what would be written and run."""
        ...

    def submit(self, reporter: Reporter) -> Submission | Ended:
        """Hand it over, or carry it to its end here; raises ConfigError."""
        ...


class Launcher(ABC, Generic[P]):
    """How runs get to one kind of place. shares_files: whether this machine sees a run's files under the same paths."""

    shares_files = True

    def resolve(self, config: RunConfig, profile: P) -> RunConfig:
        """Return the config with paths as the job reads them; raises ConfigError for one that it would not see."""
        from sisa_scale.launching.start import with_absolute_paths

        return with_absolute_paths(config)

    def check_inputs(self, config: RunConfig, reporter: Reporter) -> None:
        """Check a resolved config's data and tasks as far as they are seen from here; raises ConfigError, DataError."""
        from sisa_scale.launching.start import check_inputs

        check_inputs(config)

    @abstractmethod
    def plan(self, job: Job, folder: Path, profile: P) -> PlannedJob:
        """Return one run as a job; its files will lie in `folder`, which is not made yet."""


class ClusterLauncher(Launcher[P]):
    """A launcher whose jobs live on without the one who submitted them."""

    @abstractmethod
    def check(self, profile: P) -> Iterator[Finding]:
        """Ask the place whether it is there and could ever run a job; raises ConfigError when it is not."""

    @abstractmethod
    def state(self, submission: Submission) -> str:
        """Return the state of a job in the words of its scheduler, `GONE` for one that is not known there."""

    @abstractmethod
    def is_over(self, state: str) -> bool:
        """Return whether nothing more will come of a job in this state."""

    @abstractmethod
    def logs(self, submission: Submission) -> str:
        """Return what a job has printed so far."""

    @abstractmethod
    def follow(self, submission: Submission, reporter: Reporter) -> bool:
        """Report what a job prints until it is over; returns whether it succeeded. Ending this ends nothing else."""

    @abstractmethod
    def cancel(self, submission: Submission, *, at_once: bool) -> None:
        """Tell a job to save and stop, or end it `at_once`; one that waits leaves the queue."""


class ArrayLauncher(ClusterLauncher[P]):
    """A launcher that takes several runs as one job, and lets a job wait for another one."""

    @abstractmethod
    def plan_array(
        self, name: str, jobs: tuple[Job, ...], folder: Path, profile: P, *, after: str | None = None
    ) -> PlannedJob:
        """Return runs as one job. after: the id of a job that ends first, however it ends."""
