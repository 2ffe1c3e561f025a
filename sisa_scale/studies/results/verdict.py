"""The end of a study's report: what was compared, equal in what, tuned how, with which seeds, what would change it.

It is made of the table, the plan, the tuning and the forecast alone, and says of each claim what it rests on.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sisa_scale.reporting.summary import compact
from sisa_scale.scaling.comparison.pairs import Difference, Pairs, compare_pairs
from sisa_scale.scaling.forecast import Score
from sisa_scale.scaling.report.page import Section
from sisa_scale.scaling.table.table import RunTable
from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.studies.results.collection import Collected
from sisa_scale.studies.results.forecasting import score_forecast
from sisa_scale.studies.tuning.optima import Tuned, read_tuning

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a study shows. pairs: None without a partner; forecast: None where none was registered."""

    sentences: tuple[str, ...]
    equal: tuple[Row, ...]
    tuned: tuple[Tuned, ...]
    pairs: Pairs | None
    forecast: tuple[Row, ...]
    doubts: tuple[str, ...]
    sections: tuple[Section, ...]


def judge_study(directory: StudyDirectory, collected: Collected, table: RunTable, level: float) -> Verdict:
    """Return the verdict of what has finished; raises RefusalError for a forecast that was altered."""
    plan = directory.plan()
    reference = str(plan["reference"])
    rows = [row for row in collected.rows if not row["excluded"]]
    tuned = read_tuning(directory.path)
    pairs = compare_pairs(table, reference, level)
    equal = _equal(rows, reference, plan["trials"], tuned)
    scored = score_forecast(directory.path, table)
    sentences = _sentences(pairs)
    doubts = [*_doubts(pairs, tuned, equal, plan), *_missing(collected)]
    forecast = [] if scored is None else _forecast(scored[1])
    sections = (
        Section("What was compared, and equal in what", _compared(rows, reference, equal), equal),
        Section("How the learning rates were chosen", _tuning(tuned, plan), _tuning_rows(tuned)),
        Section("Seeds", _seeds(pairs), _cells(pairs)),
        Section("Forecast and what came", _forecast_words(scored), forecast),
        Section("Verdict of the study", sentences),
        Section("What would change it", doubts),
    )
    return Verdict(tuple(sentences), tuple(equal), tuple(tuned), pairs, tuple(forecast), tuple(doubts), sections)


def _sentences(pairs: Pairs | None) -> list[str]:
    if pairs is None:
        return ["Nothing is compared: no size and length has finished for the reference and another architecture."]
    return [one.sentence(pairs.reference, pairs.level) for one in pairs.overall]


def _equal(rows: Sequence[Row], reference: str, plan: Iterable[Row], tuned: Sequence[Tuned]) -> list[Row]:
    """Return for every architecture the largest relative difference from the reference, and what its tuning took."""
    trials = [row for row in plan if row["role"] == "tuning"]
    by_cell = {(row["architecture"], row["size"], row["budget"] or row["tokens"], row["seed"]): row for row in rows}
    found = list[Row]()
    for name in dict.fromkeys(row["architecture"] for row in rows):
        line: dict[str, Any] = {"architecture": name, "runs": sum(row["architecture"] == name for row in rows)}
        for key, label in (("params_total", "parameters"), ("tokens", "tokens"), ("train_flops", "FLOPs")):
            ratios = [
                row[key] / other[key] - 1
                for (owner, *cell), row in by_cell.items()
                if owner == name and (other := by_cell.get((reference, *cell))) is not None
            ]
            worst = max(ratios, key=abs, default=None)
            line[label] = "no pair" if worst is None else "the reference" if name == reference else f"{worst:+.2%}"
        own = [row for row in trials if row["architecture"] == name]
        rates = sorted({row["learning_rate"] for row in own})
        line["tuning trials"] = len(own)
        line["rates tried"] = f"{len(rates)}, {rates[0]:g} to {rates[-1]:g}" if rates else "none"
        line["FLOPs of tuning"] = f"{sum(row['own_flops'] for row in own):.3g}"
        found.append(line)
    return found


def _compared(rows: Sequence[Row], reference: str, equal: Sequence[Row]) -> list[str]:
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    lengths = sorted({row["tokens"] for row in rows})
    seeds = sorted({row["seed"] for row in rows})
    return [
        f"{len(rows)} finished runs of {len(equal)} architectures ({', '.join(row['architecture'] for row in equal)}; "
        f"reference {reference}) at sizes {', '.join(sizes)}, {compact(lengths[0])} to {compact(lengths[-1])} tokens, "
        f"seeds {', '.join(map(str, seeds))}, by the held-out loss after the last step, on one data set.",
        "The table has the largest difference from the reference at equal size, length and seed. What is not near 0 is "
        "an advantage or a handicap that the losses contain.",
    ]


def _tuning(tuned: Sequence[Tuned], plan: Row) -> list[str]:
    if not tuned:
        return ["Learning rates were stated, not tuned by this study: a gap may be one of rates."]
    at = next(row for row in plan["trials"] if row["role"] == "tuning")
    said = [
        "Each architecture's rate is the vertex of a parabola in the log of the rate through its own tuning trials, at "
        f"size {at['size']} and {compact(at['tokens'])} tokens; other widths and lengths follow from the exponents of "
        "study.yaml, which this study assumes and does not test."
    ]
    return said + [f"{one.architecture}: {note}." for one in tuned for note in one.optimum.notes]


def _tuning_rows(tuned: Sequence[Tuned]) -> list[Row]:
    return [
        {
            "architecture": one.architecture,
            "learning rate": f"{one.optimum.rate:.3g}",
            "interval": "unknown" if one.optimum.interval is None else "{:.3g} to {:.3g}".format(*one.optimum.interval),
            "rates fitted": ", ".join(f"{rate:g}" for rate in one.optimum.fitted),
            "noise of a loss": "unknown" if one.optimum.noise is None else f"{one.optimum.noise:.4f}",
            "cost of a rate off by the interval": _text(mistuning(one)),
        }
        for one in tuned
    ]


def mistuning(one: Tuned) -> float | None:
    """Return the loss that the farther end of the interval costs by the parabola, in nats; None where it is unknown."""
    if one.optimum.interval is None:
        return None
    z = np.log(np.array(one.optimum.interval) / one.optimum.rate)
    return float(one.optimum.coefficients[2] * (z**2).max())


def _seeds(pairs: Pairs | None) -> list[str]:
    if pairs is None:
        return ["There are no pairs."]
    said = [
        f"{one.architecture}: a seed alone changes the loss by {one.deviation:.4f} (one standard deviation, "
        f"{one.degrees} degrees of freedom)."
        for one in pairs.noise
    ]
    said = said or ["One seed each: how much a seed alone changes a loss is not known here."]
    return [
        *said,
        f"Differences are taken within a seed, where all architectures read the same data in the same order; intervals "
        f"are those of the paired t at {pairs.level:.0%}, each for itself. Of many intervals some miss by chance.",
    ]


def _cells(pairs: Pairs | None) -> list[Row]:
    if pairs is None:
        return []
    return [
        {
            "architecture": one.architecture,
            "size": one.cell[0],
            "tokens": one.cell[1],
            "pairs": len(one.seeds),
            f"loss minus {pairs.reference}": f"{one.mean:+.4f}",
            "interval": "none" if one.interval is None else "{:+.4f} to {:+.4f}".format(*one.interval),
            "shown": _shown(one),
        }
        for one in pairs.cells
    ]


def _shown(one: Difference) -> str:
    if one.is_null is None:
        return "nothing"
    return "no difference" if one.is_null else "lower" if one.mean < 0 else "higher"


def _forecast(scores: Sequence[Score]) -> list[Row]:
    return [
        {
            "architecture": one.prediction.architecture,
            "parameters": compact(one.prediction.params_scaling),
            "tokens": compact(one.prediction.tokens),
            "forecast": f"{one.prediction.loss:.4f}",
            "interval": "{:.4f} to {:.4f}".format(*one.prediction.interval),
            "measured": f"{one.measured:.4f}",
            "miss": f"{one.relative_error:+.2%}",
            "inside": "yes" if one.is_inside else "no",
        }
        for one in scores
    ]


def _forecast_words(scored: tuple[dict[str, Any], list[Score]] | None) -> list[str]:
    if scored is None:
        return ["No forecast was registered before the largest trials began, so none is scored."]
    forecast, scores = scored
    known = len(forecast["rows_sha256"])
    said = f"Registered {forecast['registered']} from {known} smaller runs ({forecast['form']}), SHA-256 "
    said += f"{forecast['sha256'][:16]}, and not written since."
    if not scores:
        return [said, "None of the largest trials has finished yet."]
    inside = sum(one.is_inside for one in scores)
    return [said, f"{inside} of {len(scores)} measured losses lie inside their interval of {forecast['level']:.0%}."]


def _doubts(pairs: Pairs | None, tuned: Sequence[Tuned], equal: Sequence[Row], plan: Row) -> Iterator[str]:
    costs = {one.architecture: mistuning(one) for one in tuned}
    for one in pairs.overall if pairs else ():
        if one.interval is None:
            yield f"{one.architecture}: a second seed, which would show how far chance goes."
        elif one.is_null:
            yield (
                f"{one.architecture}: more seeds. Differences beyond {one.interval[0]:+.4f} and {one.interval[1]:+.4f} "
                "are excluded by the pairs; a smaller one would not have been seen."
            )
        if tuned and pairs:
            unknown = [name for name in (one.architecture, pairs.reference) if costs.get(name) is None]
            total = sum(costs.get(name) or 0.0 for name in (one.architecture, pairs.reference))
            if unknown:
                names = ", ".join(unknown)
                yield f"{one.architecture}: a finer sweep, or more seeds of it; the rate of {names} has no interval."
            elif total >= abs(one.mean):
                yield (
                    f"{one.architecture}: a finer sweep. Rates at the ends of their intervals would cost {total:.4f}, "
                    f"as much as the gap of {abs(one.mean):.4f}."
                )
    if not tuned:
        yield "Tuning: rates chosen for each architecture, by learning_rate.sweep."
    elif len({row["tuning trials"] for row in equal}) > 1:
        yield "An equal tuning budget: one architecture had more tuning trials than another."
    if len({row["size"] for row in plan["trials"]}) > 1 and tuned:
        yield "A sweep at a second size, which would test the exponents that carry rates to other widths."
    yield "Other data, longer contexts, larger sizes, and other metrics than the loss: nothing here speaks of them."


def _missing(collected: Collected) -> list[str]:
    missing = [status for status in collected.missing if status.trial.values["role"] != "tuning"]
    if not missing:
        return []
    named = ", ".join(f"{status.trial.name} ({status.state})" for status in missing[:6])
    more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
    return [f"The trials that have not finished: {named}{more}."]


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
