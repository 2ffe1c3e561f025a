"""The goodput ledger: where the time of a run went, computed from its logs.

    compute      optimizer steps that the run still stands on, without their wait for data
    data_wait    steps waiting for data
    checkpoint   training stalled by a checkpoint
    evaluation   evaluations
    profile      training stalled by a profile that was asked for
    lost         steps that were taken, and taken again after a failure
    restart      from the end of an attempt, or from the command, until the next one has restored its checkpoint
    other        the rest of an attempt: monitors, logs, a step that was under way when it died

Time in which nobody asked the run to run, from the end of an attempt to the next command, is no part of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sisa_scale.runs.attempts import Attempt
from sisa_scale.runs.logs.events import stalled_seconds

CATEGORIES = ("compute", "data_wait", "checkpoint", "evaluation", "profile", "lost", "restart", "other")
_HOUR = 3600.0


@dataclass(frozen=True)
class Spent:
    """Seconds by category of one attempt, and its number of workers."""

    attempt: int
    world_size: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Ledger:
    """The ledger of a run. worker_hours weighs every attempt by its workers: GPU-hours where they have GPUs."""

    attempts: tuple[Spent, ...]

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by category."""
        return {name: sum(spent.seconds[name] for spent in self.attempts) for name in CATEGORIES}

    @property
    def worker_hours(self) -> dict[str, float]:
        """Hours of a worker by category."""
        return {
            name: sum(spent.seconds[name] * spent.world_size for spent in self.attempts) / _HOUR for name in CATEGORIES
        }

    @property
    def shares(self) -> dict[str, float]:
        """Share of the worker-hours by category; 0 for a run that has spent none."""
        hours = self.worker_hours
        total = sum(hours.values())
        return {name: value / total if total > 0 else 0.0 for name, value in hours.items()}


def ledger(
    attempts: Sequence[Attempt],
    step_seconds: Mapping[int, tuple[float, float]],
    events: Sequence[Mapping[str, Any]],
    now: datetime,
) -> Ledger:
    """Return the ledger of a run.

    step_seconds: by attempt, the seconds of its steps and those of them that waited for data.
    now: the end of an attempt that lives, or the last that is known of one that noted no end.
    """
    timed = [(_utc(datetime.fromisoformat(event["time"])), event) for event in events]
    launches = [time for time, event in timed if event["event"] == "launch"]
    spent: list[Spent] = []
    before: datetime | None = None
    for attempt in attempts:
        start = _utc(attempt.started)
        end = max(_utc(attempt.ended or now), start)
        asked = max((launch for launch in launches if launch <= start), default=before or start)
        waited = start - (asked if before is None else max(before, asked))
        # Until `resumed` was noted, an attempt began when its checkpoint was restored.
        restored = attempt.resumed or (start if attempt.from_step is not None else end)
        began = min(_utc(restored), end)
        steps, wait = step_seconds.get(attempt.attempt, (0.0, 0.0))
        seconds = {
            "compute": max(0.0, steps - wait),
            "data_wait": wait,
            **stalled_seconds([event for time, event in timed if start <= time <= end]),
            "lost": attempt.lost_seconds,
            "restart": max(0.0, waited.total_seconds()) + (began - start).total_seconds(),
        }
        within = sum(seconds.values()) - seconds["restart"]
        seconds["other"] = max(0.0, (end - began).total_seconds() - within)
        spent.append(Spent(attempt.attempt, attempt.world_size, seconds))
        before = end
    return Ledger(tuple(spent))


def _utc(time: datetime) -> datetime:
    return time.astimezone(UTC)
