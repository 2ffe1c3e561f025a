"""`attempts.jsonl`: the lives of a run's processes, one line each, and the rules for the next one."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sisa_scale.runs.layout import ATTEMPTS
from sisa_scale.runs.logs.events import Event
from sisa_scale.runs.logs.jsonl import picked, read_lines, read_rows, time_text, write_lines

LOOP_ATTEMPTS = 3
_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 2.0, 60.0
_OUTLIVED = ("finished", "preempted", "interrupted", "rolled_back")
_KILLED = "the worker, its machine or the command was killed"
# What a worker says when another one is gone.
_ECHO = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|peer|nccl|gloo|process group|socket timeout", re.I
)
_TIMES = ("started", "resumed", "ended")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One life of the processes; `attempt` is its number from 1.

    processes, nodes: by rank, "host:pid" and the node as the cluster calls it. started: the processes are up; resumed:
    the checkpoint is restored; ended: None while it lives. from_step: of the checkpoint it took up; reached_step: the
    last it finished. outcome: finished, preempted, interrupted, rolled_back or failed. reason, dead_ranks, dead_nodes:
    why, and who died first. lost_steps, lost_seconds: finished by it, but taken again by a later attempt. is_final:
    after it the run stopped until a person went on.
    """

    attempt: int
    world_size: int
    zero_stage: int
    processes: list[str] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    started: datetime
    resumed: datetime | None = None
    ended: datetime | None = None
    from_step: int | None = None
    reached_step: int | None = None
    outcome: str | None = None
    reason: str | None = None
    dead_ranks: list[int] = field(default_factory=list)
    dead_nodes: list[str] = field(default_factory=list)
    lost_steps: int = 0
    lost_seconds: float = 0.0
    is_final: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the line."""
        line = asdict(self)
        return line | {name: line[name] and time_text(line[name]) for name in _TIMES}

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> "Attempt":
        """Read a line; raises KeyError, TypeError or ValueError."""
        values = picked(cls, line)
        times = {name: datetime.fromisoformat(values[name]) for name in _TIMES if values.get(name) is not None}
        return cls(**values | times)


def read_attempts(run_dir: Path, notes: list[str] | None = None) -> list[Attempt]:
    """Return the attempts of a run by their numbers; see `jsonl.read_rows`."""
    found = read_rows(run_dir / ATTEMPTS, Attempt.from_json, [] if notes is None else notes)
    rows = {row.attempt: row for row in found}
    return [rows[number] for number in sorted(rows)]


def write_attempts(run_dir: Path, attempts: Sequence[Attempt]) -> None:
    """Replace the attempts of a run."""
    write_lines(run_dir / ATTEMPTS, [attempt.to_json() for attempt in attempts])


def count_attempts(run_dir: Path) -> int:
    """Return the number of the newest attempt; 0 before the first."""
    return sum(1 for _ in read_lines(run_dir / ATTEMPTS))


def with_cause_of_death(attempt: Attempt, events: Iterable[Event]) -> Attempt:
    """Return an attempt that did not end itself with outcome, reason, dead_ranks and dead_nodes, from its events."""
    own = [event for event in events if event.get("attempt") == attempt.attempt]
    errors = sorted((e for e in own if e["event"] == "error"), key=lambda e: bool(_ECHO.search(e["error"])))
    died = next((event for event in own if event["event"] == "workers_lost"), None)
    taken = next((event for event in own if event["event"] == "taken_over"), None)
    hang = next((event for event in own if event["event"] == "hang"), None)
    ranks: list[int] = []
    outcome = "failed"
    if any(event["event"] == "rollback" for event in own):
        outcome, reason = "rolled_back", "the guard went back to the newest checkpoint"
    elif taken is not None:
        outcome, reason = "interrupted", f"{taken['process']} took the run over"
    elif hang is not None:
        ranks, reason = list(hang.get("suspects", [])), f"a hang: {hang.get('message', 'no worker went on')}"
    elif errors and not _ECHO.search(errors[0]["error"]):
        ranks, reason = [errors[0]["rank"]], f"rank {errors[0]['rank']}: {errors[0]['error']}"
    elif died is not None:
        ranks, reason = died["ranks"], died["reason"]
    elif errors:
        reason = f"rank {errors[0]['rank']} lost its connection to a worker that left no word: {_KILLED}"
    else:
        reason = f"no process left a word: {_KILLED}"
    nodes = {attempt.nodes[rank] for rank in ranks if rank < len(attempt.nodes)}
    return replace(attempt, outcome=outcome, reason=reason, dead_ranks=ranks, dead_nodes=sorted(nodes))


def crash_loop(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return the last attempts if each of them failed at the same step, else nothing.

    The failures before a person went on do not count, nor do ends that were asked for.
    """
    last = list(attempts[-LOOP_ATTEMPTS:])
    is_loop = (
        len(last) == LOOP_ATTEMPTS
        and all(attempt.outcome == "failed" and not attempt.is_final for attempt in last)
        and len({attempt.reached_step for attempt in last}) == 1
    )
    return last if is_loop else []


def restart_delay_seconds(attempts: Sequence[Attempt]) -> float:
    """Return how long to wait before the next attempt: nothing after progress, then doubling up to a minute."""
    best, fruitless = -1, 0
    for attempt in attempts:
        reached = attempt.reached_step or 0
        if attempt.outcome in _OUTLIVED or attempt.is_final or reached > best:
            fruitless = 0
        else:
            fruitless += 1
        best = max(best, reached)
    if not fruitless or attempts[-1].outcome in _OUTLIVED:
        return 0.0
    return float(min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0 ** min(fruitless - 1, 16)))


def deaths_by_node(attempts: Iterable[Attempt]) -> Counter[str]:
    """Count the failures since a person last went on that began on each node."""
    deaths: Counter[str] = Counter()
    for attempt in attempts:
        if attempt.outcome == "failed":
            deaths.update(attempt.dead_nodes)
        if attempt.is_final:
            deaths.clear()
    return deaths
