"""The sums over `metrics.jsonl` that a status needs, read without building a row for every step."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import orjson

_RECENT_STEPS = 100


@dataclass
class StepLog:
    """The last step of a run, the median of the recent ones, and the seconds of each attempt's steps.

    seconds_by_attempt: (all seconds, those of them that waited for data); missing: steps that no line tells of.
    """

    step: int = 0
    tokens: int = 0
    loss: float | None = None
    mfu: float | None = None
    time: datetime | None = None
    seconds: float | None = None
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
            found.append(f"{self.missing:,} steps have no line in metrics.jsonl")
        if self.loss is not None and not math.isfinite(self.loss):
            found.append("the last loss is not finite")
        return found


def read_step_log(path: Path) -> StepLog:
    """Read metrics.jsonl; lines that a crash tore are left out."""
    log, last, recent = StepLog(), None, deque[dict[str, Any]](maxlen=_RECENT_STEPS)
    for line in _lines(path):
        steps, wait = log.seconds_by_attempt.get(line["attempt"], (0.0, 0.0))
        seconds = steps + line["step_seconds"], wait + (line.get("data_wait_seconds") or 0.0)
        log.seconds_by_attempt[line["attempt"]] = seconds
        log.num_skipped += bool(line.get("skipped"))
        log.missing += max(0, line["step"] - log.step - 1)
        log.step, last = line["step"], line
        recent.append(line)
    if last is not None:
        log.tokens, log.loss, log.mfu = last["tokens"], last["loss"], last.get("mfu")
        log.time = datetime.fromisoformat(last["time"])
        log.seconds = median(line["step_seconds"] for line in recent)
        log.tokens_per_second = median(line["tokens_per_second"] for line in recent)
    return log


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open("rb") as stream:
        for text in stream:
            try:
                yield orjson.loads(text)
            except ValueError:
                continue
