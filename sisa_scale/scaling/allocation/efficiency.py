"""How much less of a cost one architecture needs than another for the same loss.

multiplier = cost of the reference / cost of the architecture: above 1 the architecture needs less. In FLOPs and
seconds both sides spend the cost in their own best way; in tokens both have the reference's best size for that loss.
"""

from dataclasses import dataclass

import numpy as np

from sisa_scale.scaling.allocation.frontier import Cost, costs_of, reach, tokens_for
from sisa_scale.scaling.fit.arrays import Floats
from sisa_scale.scaling.fit.bootstrap import LEVEL, Draws
from sisa_scale.scaling.fit.fitting import Fit
from sisa_scale.scaling.table.table import RunTable

COSTS = ("flops", "tokens", "seconds")
# An interval from one to ten says that the runs do not determine the number; no number is then claimed.
MOST_SPREAD = 10.0


@dataclass(frozen=True, slots=True)
class Efficiency:
    """ρ of L = E + A (ρ_N N)^-α + B (ρ_D D)^-β against the reference, with intervals; 1 for the reference itself."""

    architecture: str
    rho_N: float
    rho_N_interval: list[float] | None
    rho_D: float
    rho_D_interval: list[float] | None


@dataclass(frozen=True, slots=True)
class Multiplier:
    """One comparison at one loss.

    Values are None where the loss lies outside what both have measured; the multiplier alone where its interval spans
    more than `MOST_SPREAD`.
    """

    architecture: str
    loss: float
    cost: str
    multiplier: float | None
    interval: list[float] | None
    from_frontier: float | None
    is_claimed: bool


def efficiencies(result: Fit, draws: Draws, reference: str, level: float = LEVEL) -> list[Efficiency]:
    """Return ρ_N and ρ_D of every architecture of a fit with shared exponents."""
    assert draws.laws_BK5 is not None
    names = result.table.architectures
    first = names.index(reference)
    laws_BK5 = draws.laws_BK5
    found = []
    for k, name in enumerate(names):
        points, intervals = [], []
        for i in range(2):
            points.append(float(_rho(result.laws_K5[None], first, k, i)[0]))
            intervals.append(draws.interval(_rho(laws_BK5, first, k, i), level))
        found.append(Efficiency(name, points[0], intervals[0], points[1], intervals[1]))
    return found


def _rho(laws_BK5: Floats, reference: int, k: int, i: int) -> Floats:
    value: Floats = (laws_BK5[:, reference, i] / laws_BK5[:, k, i]) ** (1 / laws_BK5[:, k, 3 + i])
    return value


def is_determined(interval: list[float] | None) -> bool:
    """Whether runs say anything about a positive number with this interval."""
    return interval is not None and interval[1] <= MOST_SPREAD * interval[0]


def common_losses(table: RunTable, one: str, other: str) -> tuple[float, float] | None:
    """Return the losses that both have measured, or None."""
    parts = [table.losses[table.architecture_N == name] for name in (one, other)]
    low, high = max(part.min() for part in parts), min(part.max() for part in parts)
    return (float(low), float(high)) if low < high else None


def multipliers(
    result: Fit, draws: Draws, reference: str, losses: Floats, units: list[str], level: float = LEVEL
) -> list[Multiplier]:
    """Return the multipliers of every architecture but the reference, for every unit of cost at every loss."""
    assert draws.laws_BK5 is not None
    table, names = result.table, result.table.architectures
    laws_BK5 = draws.laws_BK5
    found = []
    for name in names:
        if name == reference and len(names) > 1:
            continue
        measured = common_losses(table, reference, name)
        for unit in units:
            costs = costs_of(table, "seconds" if unit == "seconds" else "flops")[0]
            for loss in map(float, losses):
                if measured is None or not measured[0] <= loss <= measured[1]:
                    found.append(Multiplier(name, loss, unit, None, None, None, is_claimed=False))
                    continue
                k, first = names.index(name), names.index(reference)
                value = _ratio(result.laws_K5[None], first, k, costs[reference], costs[name], unit, loss)[0]
                drawn = _ratio(laws_BK5, first, k, costs[reference], costs[name], unit, loss)
                interval = draws.interval(drawn, level) if np.isfinite(value) else None
                direct = frontier_ratio(table, reference, name, unit, loss)
                is_claimed = is_determined(interval)
                point = float(value) if is_claimed else None
                found.append(Multiplier(name, loss, unit, point, interval, direct, is_claimed))
    return found


def multiplier_curve(
    result: Fit, draws: Draws, reference: str, name: str, losses: Floats, level: float = LEVEL
) -> tuple[Floats, Floats, Floats]:
    """Return the FLOP multiplier over losses, with its band; NaN where it is not determined."""
    assert draws.laws_BK5 is not None
    costs = costs_of(result.table)[0]
    first, k = result.table.architectures.index(reference), result.table.architectures.index(name)
    pair, laws = (first, k, costs[reference], costs[name], "flops"), draws.laws_BK5
    middle = [_ratio(result.laws_K5[None], *pair, float(loss))[0] for loss in losses]
    found = [draws.interval(_ratio(laws, *pair, float(loss)), level) for loss in losses]
    known = np.array([is_determined(interval) for interval in found])
    bands = np.array([interval or [np.nan, np.nan] for interval in found])
    bands[~known] = np.nan
    return np.where(known, middle, np.nan), bands[:, 0], bands[:, 1]


def _ratio(laws_BK5: Floats, first: int, k: int, of_reference: Cost, own: Cost, unit: str, loss: float) -> Floats:
    if unit == "tokens":
        _, best = reach(laws_BK5[:, first], loss, of_reference)
        value: Floats = best.tokens / tokens_for(laws_BK5[:, k], loss, best.params)
        # The reference against itself is 1 by construction, not up to rounding.
        return np.where(np.isfinite(value), 1.0, np.nan) if first == k else value
    return reach(laws_BK5[:, first], loss, of_reference)[0] / reach(laws_BK5[:, k], loss, own)[0]


def frontier_ratio(table: RunTable, reference: str, name: str, unit: str, loss: float) -> float | None:
    """Return the multiplier without any law: log cost at the loss on the convex lower hulls of both sets of runs."""
    if unit == "tokens":
        return None
    values = table.flops if unit == "flops" else table.seconds
    assert values is not None
    needed = []
    for kind in (reference, name):
        rows = table.architecture_N == kind
        costs, losses = _lower_hull(np.log(values[rows]), table.losses[rows])
        if len(costs) < 2 or not losses[-1] <= loss <= losses[0]:
            return None
        needed.append(float(np.interp(-loss, -losses, costs)))
    return float(np.exp(needed[0] - needed[1]))


def _lower_hull(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return the falling part of the convex lower hull; single points above it had the wrong size for their cost."""
    hull: list[tuple[float, float]] = []
    for point in sorted(zip(x.tolist(), y.tolist(), strict=True)):
        while len(hull) > 1 and _turns_up(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    last = min(range(len(hull)), key=lambda i: hull[i][1])
    falling = np.array(hull[: last + 1])
    return falling[:, 0], falling[:, 1]


def _turns_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) <= (b[1] - a[1]) * (c[0] - a[0])
