"""What a writer is, and what it is told."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from sisa_scale.runs.logs.evaluations import ScoreRow, read_scores
from sisa_scale.runs.logs.metrics import StepRow, read_steps


class Writer(Protocol):
    """Takes numbers of steps, in their order; may raise what it likes."""

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Take numbers of a step."""
        ...

    def log_samples(self, step: int, samples: Sequence[tuple[str, str]]) -> None:
        """Take prompts and their continuations."""
        ...

    def finish(self) -> None:
        """Flush and close."""
        ...


def train_values(row: StepRow) -> dict[str, Any]:
    """Return what writers are told of a step."""
    return {f"train/{name}": value for name, value in row.to_json().items() if isinstance(value, int | float)}


def evaluation_values(rows: Iterable[ScoreRow]) -> dict[str, Any]:
    """Return what writers are told of the scores of a step."""
    return {f"eval/{row.task}/{row.variant}/{row.metric}": row.value for row in rows}


def logged_values(run_dir: Path, first: int, stop: int) -> dict[int, dict[str, Any]]:
    """Return what the logs of a run directory hold for writers of the steps first <= step < stop."""
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    for row in read_steps(run_dir):
        if first <= row.step < stop:
            found[row.step] |= train_values(row)
    for score in read_scores(run_dir):
        if first <= score.step < stop:
            found[score.step] |= evaluation_values([score])
    return dict(sorted(found.items()))
