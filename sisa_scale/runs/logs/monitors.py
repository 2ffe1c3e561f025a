"""`monitors.jsonl`: what SISA's layers do, every so many steps."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sisa_scale.runs.layout import MONITORS
from sisa_scale.runs.logs.jsonl import append_line, read_rows


@dataclass(frozen=True, slots=True)
class MonitorRow:
    """One line: half-life in tokens of each layer, lambda of each head of each layer.

    Then for each layer the largest logits of either kind, the mean norms of C and B, and by how many radians the sum of
    phases at the last token changed in this step; and the share of each group of weights in the squared norm of the
    gradient. Empty where they were not read; NaN where they are not finite, and where nothing decays.
    """

    step: int
    half_life_tokens: list[float]
    lambda_: list[list[float]]
    largest_content_logit: list[float] = field(default_factory=list)
    largest_importance_logit: list[float] = field(default_factory=list)
    norm_c: list[float] = field(default_factory=list)
    norm_b: list[float] = field(default_factory=list)
    phase_change_radians: list[float] = field(default_factory=list)
    gradient_shares: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the line, without what was not read; JSON has no NaN, so null stands for it."""
        half_lives = [_finite(number) for number in self.half_life_tokens]
        line: dict[str, Any] = {"step": self.step, "half_life_tokens": half_lives, "lambda": self.lambda_}
        read = {name: [_finite(number) for number in getattr(self, name)] for name in _BY_LAYER}
        line |= {name: numbers for name, numbers in read.items() if numbers}
        return line | ({"gradient_shares": self.gradient_shares} if self.gradient_shares else {})

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> "MonitorRow":
        """Read a line, also one of a version that read less; raises KeyError, TypeError or ValueError."""
        lambdas = [[float(head) for head in heads] for heads in line["lambda"]]
        shares = {str(group): float(share) for group, share in (line.get("gradient_shares") or {}).items()}
        by_layer = {name: _numbers(line.get(name) or []) for name in _BY_LAYER}
        half_lives = _numbers(line["half_life_tokens"])
        return cls(int(line["step"]), half_lives, lambdas, **by_layer, gradient_shares=shares)


_BY_LAYER = (
    "largest_content_logit",
    "largest_importance_logit",
    "norm_c",
    "norm_b",
    "phase_change_radians",
)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _numbers(values: list[float | None]) -> list[float]:
    return [math.nan if number is None else float(number) for number in values]


def append_monitor(run_dir: Path, row: MonitorRow) -> None:
    """Note what was read after a step."""
    append_line(run_dir / MONITORS, row.to_json())


def read_monitors(run_dir: Path, notes: list[str] | None = None) -> list[MonitorRow]:
    """Return every monitored step once, in their order; see `jsonl.read_rows`."""
    found = read_rows(run_dir / MONITORS, MonitorRow.from_json, [] if notes is None else notes)
    rows = {row.step: row for row in found}
    return [rows[step] for step in sorted(rows)]
