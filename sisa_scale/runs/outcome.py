"""How an attempt may end of itself. Needs no torch."""

from typing import Literal

Outcome = Literal["finished", "preempted", "interrupted"]


def outcome_of(reason: str | None) -> Outcome:
    """Return how an attempt ends that was asked to stop."""
    return "preempted" if reason == "preemption" else "interrupted"
