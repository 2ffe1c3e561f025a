"""The best learning rate of a sweep: the vertex of a parabola in the log of the rate, with its interval.

Losses are of trials that differ in the rate alone; those of one seed share an offset (weights and order of the data),
which is fitted beside the parabola. The interval is Fieller's, with the noise of the residuals and Student's t, joined
with that of the minimum of a cubic: curves are often steeper above the optimum, and a parabola then misses it. Three
rates cannot show that, so they have no interval. Suffix: N trial.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sisa_scale.errors import ConfigError
from sisa_scale.scaling.fit.arrays import Floats, floats
from sisa_scale.scaling.fit.bootstrap import LEVEL
from sisa_scale.scaling.fit.fieller import vertex_interval
from sisa_scale.scaling.fit.student import quantile

WINDOW = 4.0  # a parabola holds near its vertex: rates within this factor of the best one are fitted
_MIN_RATES = 3


@dataclass(frozen=True, slots=True)
class Optimum:
    """loss(rate) = c₀ + c₁z + c₂z², z = log(rate / centre), c₀ the mean over seeds; rate: its vertex.

    interval: None where it is unknown (of three rates, or of a parabola that may be flat). noise: of one
    loss, in nats; degrees: of freedom of the noise. fitted: the rates that took part. notes: what a reader should know.
    """

    rate: float
    interval: list[float] | None
    level: float
    centre: float
    coefficients: tuple[float, float, float]
    noise: float | None
    degrees: int
    fitted: tuple[float, ...]
    notes: tuple[str, ...]

    def loss_at(self, rates: Floats) -> Floats:
        """Return the losses of the parabola."""
        z = np.log(rates / self.centre)
        c0, c1, c2 = self.coefficients
        return floats(c0 + c1 * z + c2 * z**2)

    @property
    def text(self) -> str:
        """The rate with its interval."""
        if self.interval is None:
            return f"{self.rate:.3g} (interval unknown)"
        return f"{self.rate:.3g} ({self.level:.0%}: {self.interval[0]:.3g} to {self.interval[1]:.3g})"


def find_optimum(
    rates: Sequence[float], losses: Sequence[float], seeds: Sequence[int], where: str, key: str, level: float = LEVEL
) -> Optimum:
    """Return the best rate of trials [N]. losses: nats per token, infinite or NaN where a trial diverged.

    where: what errors call the sweep; key: the setting that their remedy changes. Raises ConfigError where the best
    rate is at an edge, or where too few trials ended.
    """
    rate_N, loss_N, seed_N = floats(rates), floats(losses), np.asarray(seeds)
    all_rates = sorted(set(rates))
    diverged = sorted({rate for rate, loss in zip(rates, losses, strict=True) if not np.isfinite(loss)})
    kept = [rate for rate in all_rates if rate not in diverged]
    notes = []
    if diverged:
        notes.append(f"diverged, and left out of the fit: {_listed(diverged)}")
    if len(kept) < _MIN_RATES:
        lowest = kept[0] if kept else all_rates[0]
        raise ConfigError.at(
            where,
            found=f"{len(kept)} of {len(all_rates)} rates that ended ({_listed(diverged)} diverged)",
            allowed=f"a parabola needs {_MIN_RATES} rates",
            remedy=_remedy(key, all_rates, [lowest / 2, lowest / 4]),
        )
    means = [float(loss_N[rate_N == rate].mean()) for rate in kept]
    best = int(np.argmin(means))
    _check_edge(kept, best, diverged, all_rates, where, key)
    centre, neighbours = kept[best], kept[best - 1 : best + 2]
    near = 1.01 * np.log(WINDOW)
    window = [rate for rate in kept if rate in neighbours or abs(np.log(rate / centre)) <= near]
    found = _fit(rate_N, loss_N, seed_N, window, centre, level)
    if not neighbours[0] < found.rate < neighbours[-1] or found.coefficients[2] <= 0:
        found = _fit(rate_N, loss_N, seed_N, neighbours, centre, level)
        notes.append("the losses are no parabola: fitted to the best rate and its two neighbours alone")
    if len(found.fitted) == _MIN_RATES:
        notes.append(
            "three rates cannot show whether the losses are skewed: the interval is unknown, a fourth gives one"
        )
    elif found.interval is None:
        notes.append("the losses are too flat against their noise for an interval")
    return Optimum(
        found.rate, found.interval, level, found.centre, found.coefficients, found.noise, found.degrees, found.fitted,
        (*notes, *_far(found.interval, neighbours)),
    )  # fmt: skip


def _far(interval: list[float] | None, neighbours: list[float]) -> list[str]:
    if interval is None or (neighbours[0] <= interval[0] and interval[1] <= neighbours[-1]):
        return []
    return ["the interval is wider than the step of the sweep: add seeds or rates before small gaps are believed"]


def _fit(
    rate_N: Floats, loss_N: Floats, seed_N: np.ndarray, fitted: list[float], centre: float, level: float
) -> Optimum:
    is_fitted = np.isin(rate_N, fitted)
    z, losses, seeds = np.log(rate_N[is_fitted] / centre), loss_N[is_fitted], seed_N[is_fitted]
    offsets = (seeds[:, None] == np.unique(seeds)).astype(float)
    basis = np.column_stack([z, z**2, offsets])
    solved = np.linalg.pinv(basis)
    c1, c2, *intercepts = (float(c) for c in solved @ losses)
    degrees = len(losses) - basis.shape[1]
    residuals = losses - basis @ (solved @ losses)
    noise = float(np.sqrt((residuals**2).sum() / degrees)) if degrees > 0 else None
    interval = None
    if noise is not None and len(fitted) > _MIN_RATES:
        ends = vertex_interval((c1, c2), (solved @ solved.T)[:2, :2], quantile(level, degrees) * noise)
        if ends is not None and c2 > 0:
            skewed = _of_cubic(z, losses, offsets, noise, degrees, level)
            ends = (min(ends[0], skewed[0]), max(ends[1], skewed[1])) if skewed else None
        if ends is not None and c2 > 0:
            interval = [float(centre * np.exp(end)) for end in ends]
    rate = centre * float(np.exp(np.clip(-c1 / (2 * c2), -50, 50))) if c2 != 0 else centre
    coefficients = (float(np.mean(intercepts)), c1, c2)
    return Optimum(rate, interval, level, centre, coefficients, noise, max(degrees, 0), tuple(fitted), ())


def _of_cubic(
    z: Floats, losses: Floats, offsets: Floats, noise: float, degrees: int, level: float
) -> tuple[float, float] | None:
    """Return the interval of the minimum of a cubic by the delta method; None where it has none among the rates.

    noise, degrees: those of the parabola, where the cubic leaves no residual.
    """
    basis = np.column_stack([z, z**2, z**3, offsets])
    solved = np.linalg.pinv(basis)
    found = solved @ losses
    c1, c2, c3 = (float(c) for c in found[:3])
    roots = [float(root.real) for root in np.roots([3 * c3, 2 * c2, c1]) if abs(root.imag) < 1e-9]
    minima = [root for root in roots if 2 * c2 + 6 * c3 * root > 0 and z.min() <= root <= z.max()]
    if not minima:
        return None
    minimum = minima[0]
    if len(losses) > basis.shape[1]:
        degrees = len(losses) - basis.shape[1]
        noise = float(np.sqrt(((losses - basis @ found) ** 2).sum() / degrees))
    curvature = 2 * c2 + 6 * c3 * minimum
    slope_3 = -np.array([1.0, 2 * minimum, 3 * minimum**2]) / curvature
    spread = float(slope_3 @ (solved @ solved.T)[:3, :3] @ slope_3)
    half = quantile(level, degrees) * noise * np.sqrt(spread)
    return minimum - half, minimum + half


def _check_edge(
    kept: list[float], best: int, diverged: list[float], all_rates: list[float], where: str, key: str
) -> None:
    if 0 < best < len(kept) - 1:
        return
    centre, above = kept[best], [rate for rate in diverged if rate > kept[best]]
    if best == 0:
        step = kept[1] / kept[0]
        way, more = "lower", [centre / step**2, centre / step]
    elif above:
        way = "between it and the lowest that diverged"
        more = [centre * (above[0] / centre) ** part for part in (1 / 3, 2 / 3)]
    else:
        step = kept[-1] / kept[-2]
        way, more = "higher", [centre * step, centre * step**2]
    raise ConfigError.at(
        where,
        found=f"the best loss at {centre:.3g}, {'the lowest' if best == 0 else 'the highest'} of the rates that ended",
        allowed="an optimum lies between rates that are worse on both sides",
        remedy=f"Try rates {way}: {_remedy(key, all_rates, more)}",
    )


def _remedy(key: str, rates: list[float], more: list[float]) -> str:
    listed = sorted({float(f"{rate:.6g}") for rate in rates} | {float(f"{rate:.3g}") for rate in more})
    return f"submit again with '{key}=[{', '.join(f'{rate:g}' for rate in listed)}]'; trials that ended are kept."


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:.3g}" for rate in rates) or "none"
