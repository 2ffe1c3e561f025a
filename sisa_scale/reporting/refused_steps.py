"""The steps of a run that were refused or not finite, in series, and what the guard did about each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from sisa_scale.runs.attempts import Attempt
from sisa_scale.runs.files import Run
from sisa_scale.runs.logs.events import Event
from sisa_scale.runs.logs.metrics import StepRow


@dataclass(frozen=True, slots=True)
class RefusedSeries:
    """Successive refused steps of one attempt; `after` is what happened next."""

    attempt: int
    first: int
    last: int
    reason: str
    after: str

    @property
    def num_steps(self) -> int:
        """How many steps they are."""
        return self.last - self.first + 1


def refused_series(run: Run) -> list[RefusedSeries]:
    """Return all series of a run, oldest first, also those whose steps were taken again after a rollback.

    They come from the events; steps that no event tells of, as those of a branch's trunk, follow from the log.
    """
    skipped = [event for event in run.events if event["event"] == "step_skipped"]
    reasons = {(e.get("attempt", 0), e["step"]): str(e.get("reason", "refused")) for e in skipped}
    for row in run.steps:
        if row.skipped or not math.isfinite(row.loss):
            reasons.setdefault((row.attempt, row.step), _reason(row))
    was_taken = {(row.attempt, row.step) for row in run.steps if not row.skipped}
    numbered = enumerate(sorted(reasons))
    groups = groupby(numbered, key=lambda each: (each[1][0], each[1][1] - each[0]))  # successive: a constant difference
    found = []
    for (attempt, _), group in groups:
        steps = [step for _, (_, step) in group]
        reason = _joined([reasons[attempt, step] for step in steps])
        after = "taken all the same" if (attempt, steps[-1]) in was_taken else _after(run, attempt, steps[-1])
        found.append(RefusedSeries(attempt, steps[0], steps[-1], reason, after))
    return found


def _reason(row: StepRow) -> str:
    names = [name for name in ("loss", "gradient_norm") if not math.isfinite(getattr(row, name))]
    return f"{' and '.join(names)} not finite" if names else "refused as a spike"


def _joined(reasons: Sequence[str]) -> str:
    different = list(dict.fromkeys(reasons))
    return different[0] + (f"; and {len(different) - 1} other findings" if len(different) > 1 else "")


def _after(run: Run, attempt: int, last: int) -> str:
    own = [event for event in run.events if event.get("attempt") == attempt]
    rollback = next((e for e in own if e["event"] == "rollback" and e.get("step") == last), None)
    if rollback is not None:
        leaves_out = rollback.get("after_rollback") == "skip_data"
        what = "their data is left out" if leaves_out else "the steps are taken again"
        resumed = next((e for e in run.events if e["event"] == "resumed" and e.get("attempt", 0) > attempt), None)
        back = f"went back to step {resumed['step']:,}" if resumed is not None else "goes back to the newest checkpoint"
        return f"the guard skipped them, then {back}; {what}"
    ended = next((each for each in run.attempts if each.attempt == attempt), None)
    if ended is not None and _was_given_up(ended, last):
        return "the guard skipped them, then gave the run up"
    return "the guard skipped them; the run went on"


def _was_given_up(attempt: Attempt, last: int) -> bool:
    return attempt.is_final and attempt.outcome == "failed" and attempt.reached_step == last


def refused_sentence(series: Sequence[RefusedSeries], events: Sequence[Event]) -> str:
    """Return how many steps they are, and how often the run went back for them."""
    steps, rollbacks = sum(each.num_steps for each in series), sum(e["event"] == "rollback" for e in events)
    in_series = f"in {len(series)} series" if len(series) > 1 else "in one series"
    counted = f"{steps:,} step{'s' if steps != 1 else ''} {in_series}"
    return f"{counted}; {rollbacks} rollback{'s' if rollbacks != 1 else ''}." if rollbacks else f"{counted}."
