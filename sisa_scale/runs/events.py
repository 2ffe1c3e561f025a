"""Events of a run in plain words: what happened, what was lost, and what happens next."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Event = dict[str, Any]


def describe(event: Event) -> str | None:
    """Return an event as one sentence, or None if it is routine."""
    words = _WORDS.get(event["event"])
    return words(event) if words is not None else None


class EventFeed:
    """The events that are added to `events.jsonl` from now on, in words."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = path.stat().st_size if path.exists() else 0

    def news(self) -> Iterator[str]:
        """Yield what was added since the last call."""
        if not self.path.exists() or self.path.stat().st_size <= self._position:
            return
        with self.path.open("rb") as stream:
            stream.seek(self._position)
            whole = stream.read().rpartition(b"\n")[0]
        self._position += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            try:
                words = describe(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue
            if words is not None:
                yield words


def _resumed(event: Event) -> str | None:
    if event["attempt"] == 1:
        return None
    lost, workers = event["lost_steps"], _count(event["world_size"], "worker")
    start = f"attempt {event['attempt']} goes on from step {event['step']:,} with {workers}, "
    start += f"{event['down_seconds']:.0f} s after the last one ended; "
    if not lost:
        return start + "no step was lost"
    return start + f"{_count(lost, 'step')} ({event['lost_seconds']:.1f} s of work) were lost and are taken again"


def _damaged(event: Event) -> str:
    fallback = event.get("resumed_from_step")
    return f"the checkpoint of step {event['step']:,} is damaged and was moved to {event.get('moved_to')}; " + (
        f"the run goes on from step {fallback:,}, {_count(event['lost_steps'], 'step')} are taken again"
        if fallback is not None
        else "the one before it is tried"
    )


def _float8(event: Event) -> str:
    products, blocks = _count(event["products"], "product"), _count(event["blocks"], "block")
    left = [f"{what} in {_count(number, 'block')}" for what, number in event["left_in_bf16"].items()]
    return f"{products} of {blocks} in float8" + (f"; left in bf16: {', '.join(left)}" if left else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


_WORDS: dict[str, Callable[[Event], str | None]] = {
    "workers_lost": lambda e: f"{e['reason']}; the workers are started again from the newest checkpoint",
    "resumed": _resumed,
    "waiting": lambda e: f"{e['reason']}: waiting {e['seconds']:g} s before the next attempt",
    "drain": lambda e: f"{_count(len(e['nodes']), 'node')} of this run is to be taken away: saving a checkpoint",
    "resize": lambda e: f"the number of workers changes to {e['workers']}: saving a checkpoint, then starting again",
    "node_left_out": lambda e: f"node {e['node'][:12]} lost workers {e['deaths']} times and gets no more of them",
    "checkpoint_damaged": _damaged,
    "checkpoint_failed": lambda e: (
        f"the checkpoint of step {e['step']:,} could not be written: {' '.join(e['problems'])} If steps are left, "
        "training goes on, and the next checkpoint is tried when it is due"
    ),
    "float8_products": _float8,
    "step_skipped": lambda e: f"step {e['step']:,} changed no weight: {e['reason']}",
    "rollback": lambda e: f"step {e['step']:,}: {e['reason']}; going back to the newest checkpoint",
    "hang": lambda e: (
        f"a hang: {e['message']}; all workers are ended, their stacks are in diagnostics/attempt_{e['attempt']:04d}, "
        "and the run goes on from the newest checkpoint"
    ),
}
