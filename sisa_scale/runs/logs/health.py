"""`health.jsonl`: how large gradients, activations, logits and updates of every layer are, every so many steps."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sisa_scale.runs.layout import HEALTH
from sisa_scale.runs.logs.jsonl import append_line, read_rows

FIELDS = ("gradient_norm", "activation_rms", "largest_logit", "update_ratio")


@dataclass(frozen=True, slots=True)
class HealthRow:
    """One line; every list has a number for each layer, NaN (null in the file) where there is none.

    gradient_norm: of the first micro-batch of rank 0; update_ratio: norm of the step's change of the weights over that
    of the weights.
    """

    step: int
    gradient_norm: list[float]
    activation_rms: list[float]
    largest_logit: list[float]
    update_ratio: list[float]

    def to_json(self) -> dict[str, Any]:
        """Return the line."""
        numbers = {name: [x if math.isfinite(x) else None for x in getattr(self, name)] for name in FIELDS}
        return {"step": self.step, **numbers}

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> "HealthRow":
        """Read a line; raises KeyError, TypeError or ValueError."""
        numbers = {name: [math.nan if x is None else float(x) for x in line[name]] for name in FIELDS}
        return cls(int(line["step"]), **numbers)


def append_health(run_dir: Path, row: HealthRow) -> None:
    """Note what was read after a step."""
    append_line(run_dir / HEALTH, row.to_json())


def read_health(run_dir: Path, notes: list[str] | None = None) -> list[HealthRow]:
    """Return every step that was read once, in their order; see `jsonl.read_rows`."""
    rows = {row.step: row for row in read_rows(run_dir / HEALTH, HealthRow.from_json, [] if notes is None else notes)}
    return [rows[step] for step in sorted(rows)]
