"""Which data a training step reads when rollbacks have left some out.

`rollbacks.json` lists every rollback of a run. The data steps that it leaves out are never read: training step s reads
the s-th data step that is not left out (both from 0). The list alone decides, so every later resume does the same.
"""

import json
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sisa_scale.files import write_json
from sisa_scale.runs.layout import ROLLBACKS
from sisa_scale.runs.problems import file_errors


class DataCursor:
    """The map between training steps and data steps, both from 0."""

    def __init__(self, left_out: Iterable[int] = ()) -> None:
        self.left_out = sorted(set(left_out))

    def data_step(self, step: int) -> int:
        """Return the data step that training step `step` reads."""
        for skipped in self.left_out:
            if skipped > step:
                break
            step += 1
        return step

    def step(self, data_step: int) -> int:
        """Return the training step that reads `data_step`, which is not left out."""
        return data_step - bisect_left(self.left_out, data_step)


def read_cursor(run_dir: Path) -> DataCursor:
    """Return the data cursor of a run."""
    return DataCursor(step for rollback in read_rollbacks(run_dir) for step in rollback["left_out_data_steps"])


def read_rollbacks(run_dir: Path) -> list[dict[str, Any]]:
    """Return the rollbacks of a run, oldest first."""
    path = run_dir / ROLLBACKS
    with file_errors(path):
        return json.loads(path.read_text()) if path.exists() else []


def add_rollback(
    run_dir: Path, step: int, reason: str, refused: list[tuple[int, int]], *, leave_out: bool, attempt: int
) -> None:
    """Note that an attempt goes back from `step`; refused: (step from 1, data step from 0) of the bad steps."""
    line = {"step": step, "reason": reason, "refused": refused, "leave_out": leave_out, "to_step": None}
    line |= {"attempt": attempt}
    _write(run_dir, [*read_rollbacks(run_dir), {**line, "left_out_data_steps": []}])


def settle_rollbacks(run_dir: Path, step: int) -> None:
    """Note that the run went back to `step`: only data that is to be read again can be left out."""
    rollbacks = read_rollbacks(run_dir)
    pending = [rollback for rollback in rollbacks if rollback["to_step"] is None]
    for rollback in pending:
        again = [data_step for bad, data_step in rollback["refused"] if bad > step]
        rollback.update(to_step=step, left_out_data_steps=again if rollback["leave_out"] else [])
    if pending:
        _write(run_dir, rollbacks)


def copy_rollbacks(source: Path, run_dir: Path, step: int) -> None:
    """Copy the rollbacks of another run that were made up to `step`."""
    rollbacks = [rollback for rollback in read_rollbacks(source) if rollback["step"] <= step]
    if rollbacks:
        _write(run_dir, rollbacks)


def _write(run_dir: Path, rollbacks: list[dict[str, Any]]) -> None:
    path = run_dir / ROLLBACKS
    with file_errors(path):
        write_json(path, rollbacks)
