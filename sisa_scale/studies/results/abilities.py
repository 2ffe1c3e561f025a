"""What trials can do beside predicting text: their scores as columns of the table, and when they learned it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sisa_scale.runs.files import Run
from sisa_scale.runs.logs.evaluations import ScoreRow
from sisa_scale.studies.directory import Planned

THRESHOLDS = (50, 99)  # percent: learned by half, and wholly
_LOSS = "loss"


@dataclass(frozen=True, slots=True)
class Reached:
    """When an accuracy was first measured to be at a threshold (percent) or above.

    step: of that evaluation, None if there is none; after: the step of the evaluation before it, or the last one.
    """

    threshold: int
    step: int | None
    after: int


def ability_columns(trial: Planned, run: Run) -> dict[str, Any]:
    """Return the columns of a trial: all scores of its last step but the loss, and the steps that reached thresholds.

    A column is named by its data and its metric; the standard error stands in the column with `_se` behind it.
    """
    columns: dict[str, Any] = {}
    for row in run.scores:
        if row.step == trial.total_steps and row.task != _LOSS and None not in (row.value, row.standard_error):
            columns |= {column_of(row): row.value, f"{column_of(row)}_se": row.standard_error}
    for name, rows in accuracies(run).items():
        for reached in first_reached(rows):
            columns[f"{name}_first_step_{reached.threshold}"] = "" if reached.step is None else reached.step
    return columns


def column_of(row: ScoreRow) -> str:
    """Return the name of the column of a score: data and metric."""
    return f"{row.variant}_{row.metric}".replace("-", "_")


def accuracies(run: Run) -> dict[str, list[ScoreRow]]:
    """Return the accuracy of every task (the first that it gives in percent) over the evaluations, by column."""
    first: dict[str, str] = {}
    found: dict[str, list[ScoreRow]] = {}
    for row in run.scores:
        is_accuracy = row.unit == "%" and None not in (row.value, row.standard_error)
        if is_accuracy and first.setdefault(row.task, column_of(row)) == column_of(row):
            found.setdefault(column_of(row), []).append(row)
    return found


def first_reached(rows: Sequence[ScoreRow]) -> Iterator[Reached]:
    """Yield for each threshold when an accuracy, given by the evaluations in their order, first reached it."""
    for threshold in THRESHOLDS:
        after = 0
        for row in rows:
            if row.value is not None and row.value >= threshold:
                yield Reached(threshold, row.step, after)
                break
            after = row.step
        else:
            yield Reached(threshold, None, after)
