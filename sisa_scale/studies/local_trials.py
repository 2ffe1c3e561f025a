"""The trials of a study on this machine: one after another, or a few at once; what is finished is never run again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Literal

from sisa_scale.runs.attempts import restart_delay_seconds
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.exit_codes import HUNG, PREEMPTED, ROLLED_BACK
from sisa_scale.runs.files import read_run
from sisa_scale.runs.stop_request import Reason, write_stop
from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.studies.local_workers import LocalWorkers
from sisa_scale.studies.state import can_branch, final_score, is_finished
from sisa_scale.studies.trial import Trial

_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Result:
    """How a trial ended. loss: held-out, in nats per token; seconds: since it was started; reason: why it failed."""

    trial: Trial
    outcome: Literal["finished", "failed", "stopped"]
    seconds: float
    loss: float | None = None
    reason: str | None = None


@dataclass
class _Active:
    """A trial at work. workers: None after a loss, until `start_at` (monotonic seconds)."""

    trial: Trial
    workers: LocalWorkers | None
    begun: float
    start_at: float = 0.0
    num_failures: int = 0


class LocalRunner:
    """Carries trials to their end.

    prepare: claims or checks the run directory of a trial, may raise; device_of: what a trial computes on;
    stop_reason: why all is to stop, None as long as nobody asked; tell: called with every result.
    """

    def __init__(
        self,
        directory: StudyDirectory,
        trials: Sequence[Trial],
        *,
        at_once: int,
        prepare: Callable[[Trial], None],
        device_of: Callable[[Trial], str],
        stop_reason: Callable[[], Reason | None],
        tell: Callable[[Result], None],
    ) -> None:
        self.directory, self.at_once = directory, at_once
        self.prepare, self.device_of, self.stop_reason, self.tell = prepare, device_of, stop_reason, tell
        self.trunks = {trial.name: trial for trial in trials}
        self.results: list[Result] = []
        self._active: list[_Active] = []

    def run(self, selected: Sequence[Trial]) -> list[Trial]:
        """Run trials, in their order as far as branches can begin; returns those that never could."""
        waiting = list(selected)
        try:
            while waiting or self._active:
                reason = self.stop_reason()
                if reason is None:
                    self._start_ready(waiting)
                    if not self._active:
                        return waiting
                else:
                    self._ask_to_stop(reason)
                    if not self._active:
                        return []
                sentinels = [s for active in self._active if active.workers for s in active.workers.sentinels]
                wait(sentinels, timeout=_POLL_SECONDS)
                for active in list(self._active):
                    self._look_at(active)
        finally:
            for active in self._active:
                if active.workers is not None:
                    active.workers.kill()
        return []

    def _start_ready(self, waiting: list[Trial]) -> None:
        for trial in list(waiting):
            if len(self._active) >= self.at_once:
                return
            if trial.role != "branch" or self._is_begun(trial) or self._trunk_is_there(trial):
                waiting.remove(trial)
                begun = time.monotonic()
                self.prepare(trial)
                self._active.append(_Active(trial, self._begin(trial), begun))

    def _is_begun(self, trial: Trial) -> bool:
        return RunDirectory(trial.directory).config_path.exists()

    def _trunk_is_there(self, trial: Trial) -> bool:
        return can_branch(self.trunks[trial.trunk].directory, trial.branch_step)

    def _begin(self, trial: Trial) -> LocalWorkers:
        RunDirectory(trial.directory).stop_path.unlink(missing_ok=True)
        log = self.directory.log_path(trial.name)
        return LocalWorkers(trial.directory.resolve(), trial.workers, self.device_of(trial), log)

    def _ask_to_stop(self, reason: Reason) -> None:
        for active in list(self._active):
            if active.workers is None:
                self._end(active, Result(active.trial, "stopped", time.monotonic() - active.begun))
            elif not (stop_path := RunDirectory(active.trial.directory).stop_path).exists():
                write_stop(stop_path, reason)

    def _look_at(self, active: _Active) -> None:
        if active.workers is None:
            if time.monotonic() >= active.start_at:
                active.workers = self._begin(active.trial)
            return
        code = active.workers.exit_code()
        if code is None:
            return
        trial, seconds = active.trial, time.monotonic() - active.begun
        directory = RunDirectory(trial.directory)
        if is_finished(trial.directory, trial.config.total_steps):
            score = final_score(read_run(trial.directory), "loss", trial.config.total_steps)
            self._end(active, Result(trial, "finished", seconds, score.value if score else None))
            return
        directory.close_attempt()
        if code in (0, PREEMPTED):
            directory.stop_path.unlink(missing_ok=True)
            self._end(active, Result(trial, "stopped", seconds))
            return
        active.num_failures += 1
        is_lost = code < 0 or code in (HUNG, ROLLED_BACK)  # an error would come again; these may not
        if is_lost and active.num_failures <= trial.config.resources.max_failures:
            active.workers = None
            active.start_at = time.monotonic() + restart_delay_seconds(directory.attempts())
            return
        directory.mark_final()
        attempts = directory.attempts()
        reason = attempts[-1].reason if attempts else f"its workers ended with exit code {code}"
        self._end(active, Result(trial, "failed", seconds, reason=reason))

    def _end(self, active: _Active, result: Result) -> None:
        self._active.remove(active)
        self.results.append(result)
        self.tell(result)
