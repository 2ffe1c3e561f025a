"""The headline numbers of a run, as text."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from sisa_scale.config.tasks import task_specs
from sisa_scale.runs.files import Run
from sisa_scale.runs.logs.evaluations import ScoreRow

_PARAMETER_KEYS = ("num_parameters", "num_params", "parameters")
_FINAL_STEPS = 20
_ALWAYS_NEW = re.compile(r"^provenance\.(time|command|config_sha256)$")
MISSING = "–"


class Fact(NamedTuple):
    """One number as it is shown: its label, its text with unit, and what else there is to say about it."""

    label: str
    value: str
    detail: str = ""


def headline_facts(run: Run) -> list[Fact]:
    """Return parameters, tokens, losses, scores, speed and time; what a run does not have is a dash."""
    last = run.steps[-1] if run.steps else None
    losses = [row.loss for row in run.steps[-_FINAL_STEPS:] if np.isfinite(row.loss)]
    scores = {(row.task, row.metric): row for row in headline_scores(run)}
    speeds = [row.tokens_per_second for row in run.steps]
    utilizations = [row.mfu for row in run.steps if row.mfu is not None]
    entropy = next((row.value for row in reversed(run.scores) if row.metric == "unigram_entropy"), None)
    seconds = wall_seconds(run)
    beside = {("loss", "loss"): f"unigram entropy {entropy:.2f}"} if entropy else {}
    averaged = f"nats, mean of the last {len(losses)} steps"
    return [
        Fact("Parameters", _parameters(run)),
        Fact("Training tokens", compact(last.tokens) if last else MISSING, f"{last.step:,} steps" if last else ""),
        Fact("Training loss", f"{np.mean(losses):.3f}" if losses else MISSING, averaged),
        *(
            _score_fact(label, scores.get(headline), beside.get(headline, ""))
            for headline, label in _headlines().items()
        ),
        Fact(
            "Throughput",
            compact(float(np.median(speeds))) if speeds else MISSING,
            "tokens/s, median" + (f"; MFU {100 * float(np.median(utilizations)):.1f} %" if utilizations else ""),
        ),
        Fact("Wall time", str(timedelta(seconds=round(seconds))), _attempts(run)),
    ]  # fmt: skip


def headline_scores(run: Run) -> list[ScoreRow]:
    """Return the last row of each headline score that the run has, skipped ones included."""
    return [
        next(row for row in reversed(run.scores) if (row.task, row.metric) == headline)
        for headline in _headlines()
        if any((row.task, row.metric) == headline for row in run.scores)
    ]


def _headlines() -> dict[tuple[str, str], str]:
    """Return what each headline score, a task and a metric, is called."""
    return {(spec.name, metric): label for spec in task_specs() for metric, label in spec.headlines}


def heldout_losses(run: Run) -> list[ScoreRow]:
    """Return the held-out losses that have a value, in step order."""
    return [row for row in run.scores if row.is_heldout_loss]


def score_text(row: ScoreRow) -> str:
    """Return "value ± standard error", or the reason why there is no value."""
    if row.value is None:
        return row.note or MISSING
    digits = 1 if row.unit == "%" else 3 if row.value < 100 else 0
    error = "" if row.standard_error is None else f" ± {row.standard_error:,.{max(digits, 1)}f}"
    return f"{row.value:,.{digits}f}{error}" + (" %" if row.unit == "%" else "")


def wall_seconds(run: Run) -> float:
    """Return the seconds in which the run had processes: attempts from start to end, or to their last metric."""
    total = 0.0
    for attempt in run.attempts:
        seen = [row.time for row in run.steps if row.attempt == attempt.attempt]
        end = attempt.ended or max(seen, default=attempt.started)
        total += max(0.0, _difference(end, attempt.started))
    if not run.attempts and run.steps:
        total = _difference(run.steps[-1].time, run.steps[0].time)
    return total


def compact(number: float) -> str:
    """Return a count with three digits and k, M, B or T."""
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g}{suffix}"
    return f"{number:.3g}"


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield ("a.b", text) for every leaf of nested mappings; lists of plain values stay together."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from flatten(part, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        yield prefix, ", ".join(map(str, value))
    else:
        yield prefix, MISSING if value is None else str(value)


def changes(run: Run) -> list[tuple[int, str, str, str]]:
    """Return (attempt, key, before, after) for all that an attempt's recipe and provenance have other than the last."""
    found, before = [], dict[str, str]()
    for attempt, record in sorted(run.records.items()):
        kept = dict(flatten({"": record.config, "provenance": record.provenance}))
        after = {key: text for key, text in kept.items() if not _ALWAYS_NEW.search(key)}
        for key in sorted(before.keys() | after.keys()) if before else ():
            if before.get(key) != after.get(key):
                found.append((attempt, key, before.get(key, MISSING), after.get(key, MISSING)))
        before = after
    return found


def _parameters(run: Run) -> str:
    for name, text in flatten(run.provenance):
        if name.rpartition(".")[2] in _PARAMETER_KEYS and text.isdecimal():
            return compact(int(text))
    return MISSING


def _score_fact(label: str, row: ScoreRow | None, detail: str = "") -> Fact:
    if row is None:
        return Fact(label, MISSING)
    if row.value is None:
        return Fact(label, MISSING, row.note)
    unit = "" if row.unit == "%" else row.unit
    source = f"{row.variant}, {row.num_items:,} items"
    return Fact(label, score_text(row), "; ".join(part for part in (unit, detail, source) if part))


def _attempts(run: Run) -> str:
    return f"{len(run.attempts)} attempt{'s' if len(run.attempts) != 1 else ''}" if run.attempts else ""


def _difference(end: datetime, start: datetime) -> float:
    """Seconds between two times; one without a zone is read as local time, as `datetime.astimezone` does."""
    return (end.astimezone() - start.astimezone()).total_seconds()
