"""`metrics.jsonl`: one line for every step that was taken."""

import math
from collections import deque
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from sisa_scale.runs.layout import METRICS
from sisa_scale.runs.logs.jsonl import LineFeed, append_line, last_lines, picked, read_lines, read_rows, time_text

_TAIL_BYTES = 1 << 16
_LINE_BYTES = 1024  # more than a line has
_RECENT_STEPS = 100
_NUMBERS = ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "step_seconds")
_NOT_FINITE = ("loss", "gradient_norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One line: the state after `step` optimizer steps; `loss` in nats per token, `mfu` a share of 1.

    Loss and gradient norm that were not finite are NaN here and null in the file; `skipped` marks steps that changed no
    weight.
    """

    step: int
    tokens: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    step_seconds: float
    data_wait_seconds: float | None = None
    mfu: float | None = None
    peak_memory_bytes: int | None = None
    stream_digest: str | None = None
    attempt: int
    time: datetime
    skipped: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the line."""
        line = asdict(self) | {"time": time_text(self.time)}
        line |= {name: None for name in _NOT_FINITE if not math.isfinite(line[name])}
        if not self.skipped:
            del line["skipped"]
        return line

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> "StepRow":
        """Read a line; raises KeyError, TypeError or ValueError."""
        values = picked(cls, line)
        values |= {name: math.nan for name in _NOT_FINITE if values[name] is None}
        values |= {name: float(values[name]) for name in _NUMBERS}
        values |= {name: int(values[name]) for name in ("step", "tokens", "attempt")}
        return cls(**values | {"time": datetime.fromisoformat(values["time"]), "skipped": bool(values.get("skipped"))})


@dataclass
class StepTotals:
    """The last step of a run, the median of the recent ones, and the seconds of each attempt's steps.

    seconds_by_attempt: (all seconds, those of them that waited for data); missing: steps that no line tells of.
    """

    step: int = 0
    tokens: int = 0
    loss: float | None = None
    mfu: float | None = None
    peak_memory_bytes: int | None = None
    time: datetime | None = None
    tokens_per_second: float | None = None
    num_skipped: int = 0
    missing: int = 0
    seconds_by_attempt: dict[int, tuple[float, float]] = field(default_factory=dict)

    def warnings(self) -> list[str]:
        """Return what a person should know of the steps."""
        found = []
        if self.num_skipped:
            found.append(f"{self.num_skipped:,} steps changed no weight: their loss or gradient was refused")
        if self.missing:
            found.append(f"{self.missing:,} steps have no line in {METRICS}")
        if self.loss is not None and not math.isfinite(self.loss):
            found.append("the last loss is not finite")
        return found


class StepFeed:
    """The newest step of a run that goes on; steps of the attempts before are not told again."""

    def __init__(self, run_dir: Path) -> None:
        self._feed = LineFeed(run_dir / METRICS, skips_present=True)

    def newest(self) -> StepRow | None:
        """Return the last step that was added since the last call, None where none was."""
        lines = self._feed.news()
        return StepRow.from_json(lines[-1]) if lines else None


def append_step(run_dir: Path, row: StepRow) -> None:
    """Note a step."""
    append_line(run_dir / METRICS, row.to_json())


def read_steps(run_dir: Path, notes: list[str] | None = None) -> list[StepRow]:
    """Return every step once, as the last attempt that took it saw it, in their order; see `jsonl.read_rows`."""
    rows = {row.step: row for row in read_rows(run_dir / METRICS, StepRow.from_json, [] if notes is None else notes)}
    return [rows[step] for step in sorted(rows)]


def find_step(run_dir: Path, step: int) -> StepRow | None:
    """Return a step, None where it has no line."""
    return next((StepRow.from_json(line) for line in read_lines(run_dir / METRICS) if line.get("step") == step), None)


def last_steps(run_dir: Path, until_step: int, num_steps: int) -> list[StepRow]:
    """Return the last steps up to `until_step`, oldest first, without reading a long log from its start."""
    found: dict[int, StepRow] = {}
    for line in last_lines(run_dir / METRICS, num_steps * _LINE_BYTES):
        try:
            row = StepRow.from_json(line)
        except (KeyError, TypeError, ValueError):
            continue
        if row.step <= until_step:
            found[row.step] = row
    return [found[step] for step in sorted(found)][-num_steps:]


def last_step_and_time(run_dir: Path) -> tuple[int, dict[int, datetime]]:
    """Return the last step of a run, 0 before the first, and by attempt the time of its last line near the end."""
    lines = last_lines(run_dir / METRICS, _TAIL_BYTES)
    times = {line["attempt"]: datetime.fromisoformat(line["time"]) for line in lines if "attempt" in line}
    return max((line["step"] for line in lines), default=0), times


def taken_after(run_dir: Path, step: int) -> dict[int, tuple[int, float]]:
    """Return how many steps were finished after `step`, and their seconds, by the attempt that took them."""
    found: dict[int, tuple[int, float]] = {}
    for line in read_lines(run_dir / METRICS):
        if isinstance(line.get("step"), int) and line["step"] > step and "step_seconds" in line:
            number, seconds = found.get(line.get("attempt", 0), (0, 0.0))
            found[line.get("attempt", 0)] = number + 1, seconds + line["step_seconds"]
    return {attempt: (number, round(seconds, 3)) for attempt, (number, seconds) in found.items()}


def read_totals(run_dir: Path) -> StepTotals:
    """Read the sums that a status needs, without building a row for every step; torn lines are left out."""
    totals, last, recent = StepTotals(), None, deque[dict[str, Any]](maxlen=_RECENT_STEPS)
    for line in read_lines(run_dir / METRICS):
        steps, wait = totals.seconds_by_attempt.get(line["attempt"], (0.0, 0.0))
        seconds = steps + line["step_seconds"], wait + (line.get("data_wait_seconds") or 0.0)
        totals.seconds_by_attempt[line["attempt"]] = seconds
        totals.num_skipped += bool(line.get("skipped"))
        totals.missing += max(0, line["step"] - totals.step - 1)
        totals.step, last = line["step"], line
        recent.append(line)
    if last is not None:
        totals.tokens, totals.loss, totals.mfu = last["tokens"], last["loss"], last.get("mfu")
        totals.peak_memory_bytes = last.get("peak_memory_bytes")
        totals.time = datetime.fromisoformat(last["time"])
        totals.tokens_per_second = median(line["tokens_per_second"] for line in recent)
    return totals
