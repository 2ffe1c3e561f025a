"""Compare architectures: shared exponents with efficiencies, multipliers at stated losses, and nested models."""

from dataclasses import dataclass

import numpy as np

from sisa_scale.scaling.allocation.efficiency import (
    COSTS,
    MOST_SPREAD,
    Efficiency,
    Multiplier,
    common_losses,
    efficiencies,
    multipliers,
)
from sisa_scale.scaling.allocation.frontier import beyond, costs_of, reach
from sisa_scale.scaling.comparison.nested_models import Nested, compare_nested
from sisa_scale.scaling.fit.arrays import Floats
from sisa_scale.scaling.fit.bootstrap import LEVEL, NUM_RESAMPLES, Draws, bootstrap, judge
from sisa_scale.scaling.fit.fitting import Fit, fit
from sisa_scale.scaling.fit.misfit import misfit
from sisa_scale.scaling.fit.objectives import Objective
from sisa_scale.scaling.table.identifiability import Identifiability, require
from sisa_scale.scaling.table.notices import Notice, refusal
from sisa_scale.scaling.table.table import RunTable

MIN_RUNS_FOR_SEPARATE = 13
_NUM_LOSSES = 3


@dataclass(frozen=True, slots=True)
class Comparison:
    """The fit behind it, efficiencies (for shared exponents), multipliers, nested models and warnings."""

    reference: str
    fit: Fit
    draws: Draws
    identifiability: Identifiability
    efficiencies: tuple[Efficiency, ...]
    multipliers: tuple[Multiplier, ...]
    nested: tuple[Nested, ...]
    notices: tuple[Notice, ...]


def compare(
    table: RunTable,
    reference: str,
    *,
    form: str = "shared",
    objective: Objective | None = None,
    losses: Floats | None = None,
    units: list[str] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Comparison:
    """Compare every architecture with the reference. losses: None takes three inside the range that all measured.

    Raises RefusalError for an unknown reference, for separate exponents from few runs, and for a law not identified.
    """
    names = table.architectures
    if reference not in names:
        raise refusal(
            "bad-request",
            "--reference",
            found=repr(reference),
            allowed=f"the architectures are {', '.join(names)}",
            remedy="Name one of them.",
        )
    units = units or [unit for unit in COSTS if unit != "seconds" or table.seconds is not None]
    if "seconds" in units and table.seconds is None:
        raise refusal(
            "missing-column",
            table.path,
            found="no column seconds",
            allowed="a comparison in seconds needs the measured seconds of every run",
            remedy="Add them (wall time x devices, one kind of device), or compare flops,tokens.",
        )
    notices = list(_few_runs(table, form))
    result = fit(table, form, objective)
    found = require(result)
    draws = bootstrap(result, num_resamples, seed)
    losses = default_losses(table, reference) if losses is None else losses
    rows = multipliers(result, draws, reference, losses, units, level)
    for unit in units:
        notices += costs_of(table, "seconds" if unit == "seconds" else "flops")[1]
    if outside := sorted({row.loss for row in rows if not row.is_claimed}):
        where = ", ".join(f"{loss:g}" for loss in outside)
        text = f"no multiplier at {where}: not measured for both, not reached, or not determined"
        notices.append(Notice("extrapolation", text))
    notices += _frontiers_outside(result, reference, rows)
    rho = efficiencies(result, draws, reference, level) if form == "shared" else []
    notices += [*result.notices, *found.notices, *misfit(result), *judge(draws, found)]
    unique = tuple(dict.fromkeys(notices))
    return Comparison(reference, result, draws, found, tuple(rho), tuple(rows), tuple(compare_nested(table)), unique)


def _frontiers_outside(result: Fit, reference: str, rows: list[Multiplier]) -> list[Notice]:
    """Warn where a claimed multiplier compares sizes or tokens that the law names and nobody trained."""
    table, costs, found = result.table, costs_of(result.table)[0], []
    claimed = {(name, row.loss) for row in rows if row.is_claimed for name in (reference, row.architecture)}
    for name, loss in sorted(claimed):
        law = result.laws_K5[table.architectures.index(name)]
        outside = beyond(table, name, reach(law, loss, costs[name])[1])
        if outside is not None:
            found.append(Notice("frontier-outside", f"{name} at a loss of {loss:g}: best with {outside}"))
    return found


def default_losses(table: RunTable, reference: str) -> Floats:
    """Return three losses, to two decimals, inside the range that all architectures measured."""
    ranges = [common_losses(table, reference, name) for name in table.architectures]
    known = [one for one in ranges if one is not None]
    low, high = max(one[0] for one in known), min(one[1] for one in known)
    if len(known) < len(ranges) or low >= high:
        raise refusal(
            "no-common-loss",
            table.path,
            found="no loss that every architecture has measured",
            allowed="architectures are compared at losses that all of them measured",
            remedy="Train the weaker one longer, or compare fewer architectures.",
        )
    # Away from the ends, where one of the two has a single point.
    chosen = np.quantile([low, high], [0.2, 0.5, 0.8])
    return np.round(chosen, 2) if high - low > 0.2 else chosen


def verdicts_of(comparison: Comparison) -> list[str]:
    """Return a sentence for each architecture and cost, over the losses at which a multiplier is claimed."""
    found = []
    for key in dict.fromkeys((row.architecture, row.cost) for row in comparison.multipliers):
        rows = [row for row in comparison.multipliers if (row.architecture, row.cost) == key and row.is_claimed]
        if not rows:
            continue
        unit = {"flops": "FLOPs", "tokens": "tokens", "seconds": "seconds"}[key[1]]
        size = ", with equal parameters" if key[1] == "tokens" else ""
        parts = ", ".join(f"{_times(row)} at a loss of {row.loss:g}" for row in rows)
        shown = [row for row in rows if row.interval is not None and row.interval[0] <= 1 <= row.interval[1]]
        tail = "; where the interval contains 1, no difference is shown" if shown else ""
        ratio = f"{unit[0].upper()}{unit[1:]} of {comparison.reference} over {unit} of {key[0]}"
        found.append(f"{ratio} for the same loss{size}: {parts}{tail}. Above 1, {key[0]} needs fewer.")
    return found


def unclaimed(comparison: Comparison) -> list[str]:
    """Return a sentence for each architecture over the losses at which nothing is claimed."""
    found = []
    for key in dict.fromkeys((row.architecture, row.cost) for row in comparison.multipliers if not row.is_claimed):
        rows = [row for row in comparison.multipliers if (row.architecture, row.cost) == key and not row.is_claimed]
        losses = ", ".join(f"{row.loss:g}" for row in rows)
        found.append(
            f"{key[0]} against {comparison.reference} in {key[1]} at a loss of {losses}: not claimed (outside the "
            f"losses that both have measured, or an interval that spans more than a factor of {MOST_SPREAD:g})."
        )
    return found


def _times(row: Multiplier) -> str:
    assert row.multiplier is not None and row.interval is not None
    return f"{row.multiplier:.2f} ({row.interval[0]:.2f} to {row.interval[1]:.2f})"


def _few_runs(table: RunTable, form: str) -> list[Notice]:
    counts = {name: int((table.architecture_N == name).sum()) for name in table.architectures}
    least = min(counts, key=lambda name: counts[name])
    if form == "separate" and counts[least] < MIN_RUNS_FOR_SEPARATE:
        raise refusal(
            "bad-request",
            "--form",
            found=f"separate exponents with {counts[least]} runs of {least}",
            allowed=f"{MIN_RUNS_FOR_SEPARATE} runs of every architecture",
            remedy="Take --form shared.",
        )
    if form == "separate":
        return [
            Notice("separate-exponents", "multipliers from separate exponents are uncertain off the measured range")
        ]
    return []
