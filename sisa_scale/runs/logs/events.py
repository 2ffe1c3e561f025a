"""`events.jsonl`: what happened to a run. Every kind of event is declared here once, with its fields and its words.

A line has `event` (the kind), `time` (ISO 8601), `attempt` (0 before the first) and the fields of its kind.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sisa_scale.runs.layout import EVENT_LOG
from sisa_scale.runs.logs.jsonl import LineFeed, append_line, last_lines, read_lines
from sisa_scale.runs.provenance import now

Event = dict[str, Any]
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class EventKind:
    """A kind of event.

    fields: what its lines have; sentence: what happened, what was lost and what happens next, None for a routine event;
    warning: what `status` says of how many there were; stall: (category of the goodput ledger, field with its seconds)
    where training stood still.
    """

    fields: tuple[str, ...]
    sentence: Callable[[Event], str | None] | None = None
    warning: str | None = None
    stall: tuple[str, str] | None = None


def append_event(run_dir: Path, event: Event) -> None:
    """Note what happened."""
    append_line(run_dir / EVENT_LOG, event)


def new_event(attempt: int, kind: str, fields: Mapping[str, Any]) -> Event:
    """Return what happened now, in an attempt."""
    if kind not in EVENTS:
        raise AssertionError(f"the event {kind!r} is not declared in EVENTS")
    return {"event": kind, "time": now(), "attempt": attempt, **fields}


def read_events(run_dir: Path) -> list[Event]:
    """Return the events of a run, oldest first; lines that a crash tore are left out."""
    return [line for line in read_lines(run_dir / EVENT_LOG) if "event" in line]


def last_events(run_dir: Path) -> list[Event]:
    """Return the newest events: those in the last few kilobytes."""
    return [line for line in last_lines(run_dir / EVENT_LOG, _TAIL_BYTES) if "event" in line]


class EventFeed:
    """The events that are added to a run from now on, in words."""

    def __init__(self, run_dir: Path) -> None:
        self._feed = LineFeed(run_dir / EVENT_LOG, skips_present=True)

    def news(self) -> Iterator[str]:
        """Yield what was added since the last call."""
        for event in self._feed.news():
            words = describe(event)
            if words is not None:
                yield words


def describe(event: Event) -> str | None:
    """Return an event as one sentence, or None if it is routine or of another version."""
    kind = EVENTS.get(event.get("event", ""))
    try:
        return kind.sentence(event) if kind is not None and kind.sentence is not None else None
    except (KeyError, TypeError, ValueError):
        return None


def event_warnings(events: Iterable[Event]) -> list[str]:
    """Return what a person should know of the events of a run, counted."""
    numbers = Counter(event["event"] for event in events)
    return [f"{numbers[name]} {kind.warning}" for name, kind in EVENTS.items() if kind.warning and numbers[name]]


def stalled_seconds(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the seconds in which training stood still, by category of the goodput ledger."""
    seconds = {kind.stall[0]: 0.0 for kind in EVENTS.values() if kind.stall is not None}
    for event in events:
        kind = EVENTS.get(event["event"])
        if kind is not None and kind.stall is not None:
            category, field = kind.stall
            seconds[category] += float(event.get(field, 0.0))
    return seconds


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


def _replaced(event: Event) -> str:
    lost = event["lost"] or "no state"
    return f"from step {event['step']:,} on {event['after']} takes the place of {event['before']}; given up: {lost}"


def _profile(event: Event) -> str:
    ranks = ", ".join(map(str, event["ranks"][:8])) + (", ..." if len(event["ranks"]) > 8 else "")
    what = "allocations" if event["is_memory"] else "traces"
    words = f"{what} of {_count(event['steps'], 'step')} from {event['step']:,} on, rank {ranks}: {event['directory']}"
    words += f"; training stood still for {event['seconds']:.1f} s"
    return words + "".join(f"; {problem}" for problem in event["problems"])


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


_SAVE = ("step", "stall_seconds", "write_seconds", "bytes")

EVENTS: Mapping[str, EventKind] = {
    "launch": EventKind(("workers", "process")),
    "branch": EventKind(("step", "trunk")),
    "resumed": EventKind(("step", "world_size", "lost_steps", "lost_seconds", "down_seconds"), _resumed),
    "optimizer_replaced": EventKind(("step", "before", "after", "lost"), _replaced),
    "weight_average": EventKind(
        ("step", "change"), lambda e: f"the moving average of the weights is {e['change']} at step {e['step']:,}"
    ),
    "float8_products": EventKind(("products", "blocks", "left_in_bf16"), _float8),
    "evaluation": EventKind(("step", "seconds"), stall=("evaluation", "seconds")),
    "samples": EventKind(("step", "seconds"), stall=("evaluation", "seconds")),
    "evaluation_skipped": EventKind(("step", "reason")),
    "checkpoint": EventKind(_SAVE, stall=("checkpoint", "stall_seconds")),
    "checkpoint_damaged": EventKind(
        ("step", "problems", "moved_to", "resumed_from_step", "lost_steps"),
        _damaged,
        "checkpoints were damaged and set aside",
    ),
    "checkpoint_distrusted": EventKind(
        ("step", "moved_to", "first_refused"),
        lambda e: (
            f"the checkpoint of step {e['step']:,} leads to refused steps from {e['first_refused']:,} on and was moved "
            f"to {e['moved_to']}; the run goes back to the one before it"
        ),
        "checkpoints led to refused steps and were set aside",
    ),
    "checkpoint_failed": EventKind(
        (*_SAVE, "problems"),
        lambda e: (
            f"the checkpoint of step {e['step']:,} could not be written: {' '.join(e['problems'])} If steps are left, "
            "training goes on, and the next checkpoint is tried when it is due"
        ),
        "checkpoints could not be written",
        ("checkpoint", "stall_seconds"),
    ),
    "checkpoint_abandoned": EventKind(
        ("step", "moved_to"), lambda e: f"the checkpoint of step {e['step']:,} lies at {e['moved_to']} now"
    ),
    "went_back": EventKind(
        ("step", "last_step", "kept_in"),
        lambda e: (
            f"a person went back from step {e['last_step']:,} to step {e['step']:,}; the lines of the steps between "
            f"them are kept in {e['kept_in']}"
        ),
        "times a person went back to an earlier step",
    ),
    "profile": EventKind(
        ("step", "steps", "ranks", "seconds", "directory", "is_memory", "problems"),
        _profile,
        stall=("profile", "seconds"),
    ),
    "profile_refused": EventKind(("step", "reason"), lambda e: f"no step is profiled: {e['reason']}"),
    "health": EventKind(
        ("step", "rule", "layer", "value", "message"),
        lambda e: f"step {e['step']:,}, {e['rule']}: {e['message']}",
        "warnings of the numerics of a layer",
    ),
    "stop_requested": EventKind(("step", "reason", "seconds_left")),
    "metrics_served": EventKind(("host", "url", "wanted_port"), lambda e: f"metrics on {e['host']}: {e['url']}"),
    "metrics_not_served": EventKind(("host", "reason"), lambda e: f"no metrics are served: {e['reason']}"),
    "error": EventKind(("rank", "error")),
    "taken_over": EventKind(
        ("process", "of"), lambda e: f"{e['process']} takes the run over from {e['of']}, which ends without saving"
    ),
    "workers_lost": EventKind(
        ("ranks", "reason"),
        lambda e: f"{e['reason']}; the workers are started again from the newest checkpoint",
    ),
    "waiting": EventKind(
        ("seconds", "reason"), lambda e: f"{e['reason']}: waiting {e['seconds']:g} s before the next attempt"
    ),
    "hang": EventKind(
        (
            "noticed_by", "rank", "phase", "seconds", "bound_seconds", "message", "suspect_rank", "suspects", "silent",
            "process_states", "doing",
        ),
        lambda e: (
            f"a hang: {e['message']}; all workers are ended, their stacks are in diagnostics/attempt_{e['attempt']:04d}"
            ", and the run goes on from the newest checkpoint"
        ),
        "hangs were ended by the watchdog",
    ),
    "step_skipped": EventKind(
        (
            "step", "reason", "loss", "gradient_norm", "threshold", "data_step", "stream_digest",
            "micro_losses_by_rank",
        ),
        lambda e: f"step {e['step']:,} changed no weight: {e['reason']}",
    ),
    "rollback": EventKind(
        ("step", "reason", "after_rollback"),
        lambda e: f"step {e['step']:,}: {e['reason']}; going back to the newest checkpoint",
        "rollbacks of the guard",
    ),
    "drain": EventKind(
        ("nodes", "ranks", "seconds"),
        lambda e: f"{_count(len(e['nodes']), 'node')} of this run is to be taken away: saving a checkpoint",
    ),
    "resize": EventKind(
        ("workers",),
        lambda e: f"the number of workers changes to {e['workers']}: saving a checkpoint, then starting again",
    ),
    "node_left_out": EventKind(
        ("node", "deaths"),
        lambda e: f"node {e['node'][:12]} lost workers {e['deaths']} times and gets no more of them",
        "nodes get no more workers",
    ),
}  # fmt: skip
