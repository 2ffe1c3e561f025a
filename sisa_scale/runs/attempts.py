"""The lives of a run's processes, as `attempts.jsonl` has them: one line each. Needs no torch.

attempt, world_size, zero_stage             number from 1, and its shape
processes, nodes                            by rank: "host:pid", and the node as the cluster calls it
started, resumed, ended                     processes up; checkpoint restored; null while it lives
from_step, reached_step                     the checkpoint it took up; the last step it finished
outcome                                     finished, preempted, interrupted, rolled_back or failed
reason, dead_ranks, dead_nodes              why, and who died first
lost_steps, lost_seconds                    finished by it, but taken again by a later attempt
is_final                                    after it the run stopped until a person went on
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

Attempt = dict[str, Any]
Event = dict[str, Any]

LOOP_ATTEMPTS = 3
_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 2.0, 60.0
_OUTLIVED = ("finished", "preempted", "interrupted", "rolled_back")
_KILLED = "the worker, its machine or the command was killed"
# What a worker says when another one is gone.
_ECHO = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|peer|nccl|gloo|process group|socket timeout", re.I
)


def new_attempt(number: int, started: str, world_size: int, zero_stage: int) -> Attempt:
    """Return the line of an attempt that begins."""
    shape = {"attempt": number, "world_size": world_size, "zero_stage": zero_stage, "processes": [], "nodes": []}
    times = {"started": started, "resumed": None, "ended": None, "from_step": None, "reached_step": None}
    end: Attempt = {"outcome": None, "reason": None, "dead_ranks": [], "dead_nodes": []}
    return {**shape, **times, **end, "lost_steps": 0, "lost_seconds": 0.0, "is_final": False}


def cause_of_death(attempt: Attempt, events: Iterable[Event]) -> dict[str, Any]:
    """Return outcome, reason, dead_ranks and dead_nodes of an attempt that did not end itself, from its events."""
    own = [event for event in events if event.get("attempt") == attempt["attempt"]]
    errors = sorted((e for e in own if e["event"] == "error"), key=lambda e: bool(_ECHO.search(e["error"])))
    died = next((event for event in own if event["event"] == "workers_lost"), None)
    hang = next((event for event in own if event["event"] == "hang"), None)
    ranks: list[int] = []
    outcome = "failed"
    if any(event["event"] == "rollback" for event in own):
        outcome, reason = "rolled_back", "the guard went back to the newest checkpoint"
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
    nodes = [attempt["nodes"][rank] for rank in ranks if rank < len(attempt["nodes"])]
    return {"outcome": outcome, "reason": reason, "dead_ranks": ranks, "dead_nodes": sorted(set(nodes))}


def crash_loop(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return the last attempts if each of them failed at the same step, else nothing.

    The failures before a person went on do not count, nor do ends that were asked for.
    """
    last = list(attempts[-LOOP_ATTEMPTS:])
    is_loop = (
        len(last) == LOOP_ATTEMPTS
        and all(attempt["outcome"] == "failed" and not attempt.get("is_final") for attempt in last)
        and len({attempt.get("reached_step") for attempt in last}) == 1
    )
    return last if is_loop else []


def restart_delay_seconds(attempts: Sequence[Attempt]) -> float:
    """Return how long to wait before the next attempt: nothing after progress, then doubling up to a minute."""
    best, fruitless = -1, 0
    for attempt in attempts:
        reached = attempt.get("reached_step") or 0
        if attempt["outcome"] in _OUTLIVED or attempt.get("is_final") or reached > best:
            fruitless = 0
        else:
            fruitless += 1
        best = max(best, reached)
    if not fruitless or attempts[-1]["outcome"] in _OUTLIVED:
        return 0.0
    return float(min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0 ** min(fruitless - 1, 16)))


def deaths_by_node(attempts: Iterable[Attempt]) -> Counter[str]:
    """Count the failures since a person last went on that began on each node."""
    deaths: Counter[str] = Counter()
    for attempt in attempts:
        if attempt["outcome"] == "failed":
            deaths.update(attempt.get("dead_nodes", []))
        if attempt.get("is_final"):
            deaths.clear()
    return deaths
