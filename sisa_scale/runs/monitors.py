"""`monitors.jsonl`: what the importance of SISA layers looks like, every so many steps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sisa_scale.runs.jsonl import append_line, read_rows
from sisa_scale.runs.layout import MONITORS


@dataclass(frozen=True, slots=True)
class MonitorRow:
    """One line: half-life in tokens of each layer, lambda of each head of each layer."""

    step: int
    half_life_tokens: list[float]
    lambda_: list[list[float]]

    def to_json(self) -> dict[str, Any]:
        """Return the line."""
        return {"step": self.step, "half_life_tokens": self.half_life_tokens, "lambda": self.lambda_}

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> "MonitorRow":
        """Read a line; raises KeyError, TypeError or ValueError."""
        lambdas = [[float(head) for head in heads] for heads in line["lambda"]]
        return cls(int(line["step"]), [float(tokens) for tokens in line["half_life_tokens"]], lambdas)


def append_monitor(run_dir: Path, row: MonitorRow) -> None:
    """Note what was read after a step."""
    append_line(run_dir / MONITORS, row.to_json())


def read_monitors(run_dir: Path, notes: list[str] | None = None) -> list[MonitorRow]:
    """Return every monitored step once, in their order; see `jsonl.read_rows`."""
    found = read_rows(run_dir / MONITORS, MonitorRow.from_json, [] if notes is None else notes)
    rows = {row.step: row for row in found}
    return [rows[step] for step in sorted(rows)]
