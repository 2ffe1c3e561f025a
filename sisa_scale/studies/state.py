"""How the trials of a study stand, from their run directories alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from sisa_scale.checkpoint.store import store_in
from sisa_scale.runs.diagnostics import Diagnostics
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.files import Run, read_run
from sisa_scale.runs.layout import JOBS, holds_run
from sisa_scale.runs.logs.evaluations import ScoreRow
from sisa_scale.runs.logs.metrics import read_totals
from sisa_scale.studies.directory import Planned, StudyDirectory

State = Literal["waiting", "ready", "running", "stopped", "failed", "finished"]
STATES: Mapping[State, str] = {
    "waiting": "its trunk has not reached the step where it branches off, or its learning rate is not tuned yet",
    "ready": "not begun",
    "running": "its workers give signs of life",
    "stopped": "begun, ended or killed before its last step, and to be resumed",
    "failed": "ended with an error",
    "finished": "all steps taken, the loss measured",
}
_SILENT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class TrialStatus:
    """How a trial stands. loss: the held-out loss (nats per token) of a finished one; reason: why it failed."""

    trial: Planned
    state: State
    step: int
    loss: float | None
    reason: str | None


def read_states(directory: StudyDirectory, trials: Sequence[Planned]) -> list[TrialStatus]:
    """Return the state of every trial of a study, in their order."""
    by_name = {trial.name: trial for trial in trials}
    notes = [directory.path / JOBS, directory.path / "submissions", *(trial.directory / JOBS for trial in trials)]
    is_submitted = any(path.exists() for path in notes)
    may_run = is_submitted or directory.is_locked
    return [_status(trial, by_name, may_run=may_run) for trial in trials]


def is_finished(run_dir: Path, total_steps: int) -> bool:
    """Whether a run has ended by itself at its last step."""
    attempts = RunDirectory(run_dir).attempts()
    return bool(attempts) and attempts[-1].outcome == "finished" and (attempts[-1].reached_step or 0) >= total_steps


def can_branch(trunk_dir: Path, step: int) -> bool:
    """Whether a trunk keeps the checkpoint that a branch begins from."""
    return step in store_in(trunk_dir).steps()


def final_score(run: Run, metric: str, total_steps: int) -> ScoreRow | None:
    """Return a score of the held-out text after the last step of a run, None where it was not measured."""
    for row in run.scores:
        if (row.step, row.task, row.metric) == (total_steps, "loss", metric) and row.value is not None:
            return row
    return None


def _status(trial: Planned, by_name: Mapping[str, Planned], *, may_run: bool) -> TrialStatus:
    run_dir = trial.directory
    if not holds_run(run_dir):
        trunk, step = by_name[trial.values["trunk"]], trial.values["branch_step"]
        is_untuned = trial.values.get("learning_rate", 0) is None
        is_waiting = is_untuned or (bool(step) and not can_branch(trunk.directory, step))
        return TrialStatus(trial, "waiting" if is_waiting else "ready", 0, None, None)
    step = read_totals(run_dir).step
    if is_finished(run_dir, trial.total_steps):
        score = final_score(read_run(run_dir), "loss", trial.total_steps)
        return TrialStatus(trial, "finished", step, score.value if score else None, None)
    attempts = RunDirectory(run_dir).attempts()
    if attempts and attempts[-1].outcome == "failed" and attempts[-1].is_final:
        return TrialStatus(trial, "failed", step, None, attempts[-1].reason)
    is_alive = may_run and attempts and attempts[-1].ended is None and _gives_signs(run_dir, attempts[-1].attempt)
    return TrialStatus(trial, "running" if is_alive else "stopped", step, None, None)


def _gives_signs(run_dir: Path, attempt: int) -> bool:
    now = datetime.now(UTC)
    return any(
        (now - time).total_seconds() <= _SILENT_SECONDS for _, time in Diagnostics(run_dir, attempt).heartbeats()
    )
