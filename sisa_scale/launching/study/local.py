"""The trials of a study on this machine."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sisa_scale.errors import Problem
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.start import begin, reopen, with_absolute_paths
from sisa_scale.runs.layout import holds_run
from sisa_scale.runs.stop_request import Reason
from sisa_scale.studies.branching import begin_branch
from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.studies.local_trials import LocalRunner, Result
from sisa_scale.studies.trial import Trial


@dataclass(frozen=True, slots=True)
class Ended:
    """How trials ended; `never` are branches whose trunk was not there."""

    results: tuple[Result, ...]
    never: tuple[Trial, ...]

    @property
    def is_stopped(self) -> bool:
        """Whether a signal ended some of them before their last step."""
        return any(result.outcome == "stopped" for result in self.results)


class LocalStage:
    """Runs trials of a study here, some at a time, and tells how each ended, of `total` in all."""

    def __init__(
        self,
        directory: StudyDirectory,
        trials: Sequence[Trial],
        total: Sequence[Trial],
        at_once: int,
        reporter: Reporter,
    ) -> None:
        self.directory, self.trials, self.at_once, self.reporter = directory, trials, at_once, reporter
        self._progress = _Progress(total, reporter)

    def run(self, chosen: Sequence[Trial]) -> Ended:
        """Run trials to their end, or until a signal stops them."""
        by_name = {trial.name: trial for trial in self.trials}
        with _asked_to_stop(self.reporter) as reason:
            runner = LocalRunner(
                self.directory,
                self.trials,
                at_once=self.at_once,
                prepare=lambda trial: prepare(trial, by_name[trial.trunk]),
                device_of=_device,
                stop_reason=reason,
                tell=self._progress.tell,
            )
            never = runner.run(chosen)
        return Ended(tuple(runner.results), tuple(never))


def problems_of(directory: StudyDirectory, ended: Ended) -> list[Problem]:
    """Return a problem for each trial that failed or could not begin."""
    problems = [
        Problem(
            result.trial.name,
            result.reason or "a failure",
            f"see {directory.log_path(result.trial.name)}",
            f"With the cause removed: sisa-scale study submit ... --only {result.trial.name}",
        )
        for result in ended.results
        if result.outcome == "failed"
    ]
    return problems + [
        Problem(
            trial.name,
            f"no checkpoint of step {trial.branch_step} of its trunk {trial.trunk}",
            "a branch begins from it",
            f"Run the trunk first: --only {trial.trunk}",
        )
        for trial in ended.never
    ]


def prepare(trial: Trial, trunk: Trial) -> None:
    """Claim the run directory of a trial, or check the one it has."""
    if holds_run(trial.directory):
        reopen(trial.directory, ())
    elif trial.role == "branch":
        begin_branch(trunk.directory, trial.branch_step, with_absolute_paths(trial.config))
    else:
        begin(trial.config)


def _device(trial: Trial) -> str:
    resources = trial.config.resources
    if resources.device != "auto":
        return resources.device
    import torch

    return "cuda" if torch.cuda.device_count() >= resources.workers else "cpu"


class _Progress:
    """One line for every trial that ends, with the time that the rest will take."""

    def __init__(self, chosen: Sequence[Trial], reporter: Reporter) -> None:
        self.reporter = reporter
        self.total, self.done = len(chosen), 0
        self.flops_left = sum(trial.own_flops for trial in chosen)
        self.flops_done, self.started = 0.0, time.monotonic()

    def tell(self, result: Result) -> None:
        """Say how a trial ended."""
        self.done += 1
        self.flops_left -= result.trial.own_flops
        self.flops_done += result.trial.own_flops
        text = f"[{self.done}/{self.total}] {result.trial.name} {result.outcome} after {result.seconds:.0f} s"
        if result.loss is not None:
            text += f", held-out loss {result.loss:.4f}"
        if result.reason is not None:
            text += f": {result.reason}"
        left = (time.monotonic() - self.started) * self.flops_left / self.flops_done
        self.reporter.announce(text + (f"; about {left / 60:.0f} min left" if self.done < self.total else ""))


@contextmanager
def _asked_to_stop(reporter: Reporter) -> Iterator[Callable[[], Reason | None]]:
    """Give a function that says whether a signal asked for checkpoints and a stop. A second SIGINT stops at once."""
    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        if number == signal.SIGINT and number in asked:
            raise KeyboardInterrupt
        asked.append(number)
        reporter.announce("saving and stopping; the same command goes on later")

    def reason() -> Reason | None:
        if not asked:
            return None
        return "interrupt" if asked[0] == signal.SIGINT else "preemption"

    before = {name: signal.signal(name, ask) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield reason
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
