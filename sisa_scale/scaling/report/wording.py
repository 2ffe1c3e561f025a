"""The report in words: headline facts, verdicts with intervals, and what is not claimed."""

from typing import NamedTuple

import numpy as np

from sisa_scale.reporting.summary import compact
from sisa_scale.scaling.allocation.efficiency import is_determined
from sisa_scale.scaling.allocation.frontier import allocate
from sisa_scale.scaling.comparison.compare import unclaimed, verdicts_of
from sisa_scale.scaling.comparison.nested_models import error_of_largest
from sisa_scale.scaling.figures.plot import tick
from sisa_scale.scaling.fit.bootstrap import a_of
from sisa_scale.scaling.report.contents import Study

RUN_COLUMNS = {
    "line": "line", "run_id": "run", "architecture": "architecture", "params_scaling": "parameters", "tokens": "tokens",
    "train_flops": "FLOPs", "loss": "loss", "loss_se": "standard error", "law": "law",
    "over_law_percent": "over the law",
}  # fmt: skip


class Fact(NamedTuple):
    """A number as it is shown: its label, its text, and what there is to say about it."""

    label: str
    value: str
    detail: str = ""


def facts(study: Study) -> list[Fact]:
    """Return the headline numbers of a study."""
    table = study.table
    found = [
        Fact("Points", f"{len(table)}", f"{len(np.unique(table.cluster_N))} clusters"),
        Fact("Parameters", f"{compact(table.params.min())} to {compact(table.params.max())}"),
        Fact("Tokens", f"{compact(table.tokens.min())} to {compact(table.tokens.max())}"),
        Fact("FLOPs", f"{tick(float(table.flops.min()), 'flops')} to {tick(float(table.flops.max()), 'flops')}",
             "exact" if table.train_flops is not None else "6 x parameters x tokens"),
    ]  # fmt: skip
    if study.fit is None or study.draws is None or study.draws.laws_BK5 is None or study.identifiability is None:
        return found
    laws = study.draws.laws_BK5[:, 0]
    law = study.fit.laws_K5[0]
    for label, value, drawn in (
        ("α (parameters)", law[3], laws[:, 3]),
        ("β (tokens)", law[4], laws[:, 4]),
        ("E (irreducible)", law[2], laws[:, 2]),
        ("a = β/(α+β)", a_of(law), a_of(laws)),
    ):
        found.append(Fact(label, f"{value:.3f}", _interval(study.interval(drawn), 3)))
    found.append(Fact("Spread around the law", f"{study.identifiability.noise:.2%}", "of the loss, robust"))
    return found


def verdicts(study: Study) -> list[str]:
    """Return what the table shows, one sentence each, with intervals."""
    if study.refused is not None:
        problem = study.refused.problems[0]
        return [
            f"No law is given [{study.refused.code}]: {problem.found}.",
            f"{_sentence(problem.allowed)} {problem.remedy}",
        ]
    if study.comparison is not None:
        return verdicts_of(study.comparison) or ["No multiplier is claimed at the losses that were asked for."]
    (subject,) = study.subjects
    assert subject.law_5 is not None and subject.laws_B5 is not None
    found = []
    for factor, words in ((1.0, "as large as the largest run"), (10.0, "ten times the largest run")):
        budget = factor * float(study.table.flops.max())
        flops = tick(budget, "flops")
        best, drawn = allocate(subject.law_5, budget, subject.cost), allocate(subject.laws_B5, budget, subject.cost)
        found.append(
            f"A budget {words} ({flops} FLOPs) is best spent on {compact(float(best.params))} parameters "
            f"({_range(study.interval(drawn.params))}) and {compact(float(best.tokens))} tokens "
            f"({_range(study.interval(drawn.tokens))}), for a loss of {float(best.loss):.3f} "
            f"({_interval(study.interval(drawn.loss), 3)})."
        )
    error = error_of_largest(study.table, "chinchilla", study.table)
    if error is not None:
        found.append(f"Fitted without the fifth of the runs with the most compute, the law misses them by {error:.2%}.")
    return found


def not_claimed(study: Study) -> list[str]:
    """Return what the table cannot show."""
    codes = {notice.code for notice in study.notices}
    found = []
    if study.comparison is not None:
        found += unclaimed(study.comparison)
        found.append("Multipliers hold at the stated losses; how they go on beyond the measured losses is not claimed.")
        found.append(
            "A difference between architectures holds for the recipes that were run: if learning rates or batch sizes "
            "were tuned for one of them only, the multiplier contains that."
        )
    if study.fit is not None:
        found.append("E is a parameter of this form; it is not the entropy of text, nor comparable across forms.")
        found.append(
            "Intervals come from resampling these runs: they hold no uncertainty about the form of the law, nor about "
            "other data, tokenizers, schedules or hyper-parameters."
        )
    if "flops-6nd" in codes:
        found.append("FLOPs are 6 x parameters x tokens: differences in attention, scans and heads are not counted.")
    if study.table.seconds is None:
        found.append("Nothing is said about time: the table has no seconds.")
    if "undecayed" in codes or "points-of-one-run" in codes:
        found.append("Losses may be from before the decay of the learning rate; finished runs would be lower.")
    largest = float(study.table.flops.max())
    found.append(f"Nothing is claimed far beyond {tick(largest, 'flops')} FLOPs, the largest run.")
    return found


def shown(interval: list[float]) -> str:
    """Return an interval of a positive number as text."""
    return _interval(interval, 3) if is_determined(interval) else "not determined: more than a factor of ten"


def run_cell(name: str, value: object) -> str:
    """Return a cell of the table of runs."""
    if not isinstance(value, float):
        return str(value)
    if not np.isfinite(value):
        return "–"
    if name in ("params_scaling", "tokens"):
        return compact(value)
    if name == "train_flops":
        return tick(value, "flops")
    return f"{value:+.2f} %" if name == "over_law_percent" else f"{value:.4f}"


def _range(interval: list[float] | None) -> str:
    return "no interval" if interval is None else f"{compact(interval[0])} to {compact(interval[1])}"


def _interval(interval: list[float] | None, digits: int) -> str:
    return "no interval" if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
