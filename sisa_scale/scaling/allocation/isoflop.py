"""IsoFLOP parabolas: the best size at each budget, and the power law through these sizes.

A parabola through a wide or one-sided grid misses the optimum of a surface that is no parabola. `corrected` vertices
have the error removed that the same grid makes on the fitted Chinchilla surface, where the optimum is known.
"""

from dataclasses import dataclass

import numpy as np

from sisa_scale.scaling.allocation.frontier import Cost, allocate, fit_cost, predict
from sisa_scale.scaling.fit.arrays import Floats, Integers
from sisa_scale.scaling.fit.bootstrap import LEVEL, NUM_RESAMPLES, percentile
from sisa_scale.scaling.table.notices import Notice, refusal
from sisa_scale.scaling.table.table import RunTable

MIN_SIZES = 4
_GAP, _WIDEST = np.log(1.15), np.log(1.7)


@dataclass(frozen=True, slots=True)
class Budget:
    """One parabola loss = c₀ + c₁z + c₂z², z = log x − centre. vertex and corrected are values of x."""

    flops: float
    rows: Integers
    coefficients: tuple[float, float, float]
    centre: float
    vertex: float
    corrected: float | None
    loss: float
    is_inside: bool
    vertex_interval: list[float] | None = None


@dataclass(frozen=True, slots=True)
class Isoflop:
    """x* = factor x FLOPs^exponent, from plain and from corrected vertices, with bootstrap intervals."""

    x: str
    budgets: tuple[Budget, ...]
    exponent: float
    factor: float
    interval: list[float] | None
    corrected_exponent: float | None
    corrected_factor: float | None
    corrected_interval: list[float] | None
    notices: tuple[Notice, ...]


def group_budgets(table: RunTable) -> list[Integers]:
    """Return the points of every budget: by the column `budget`, else by gaps in the FLOPs."""
    if (named := table.numbers.get("budget")) is not None:
        return [np.flatnonzero(named == value) for value in np.unique(named)]
    log_flops = np.log(table.flops)
    order = np.argsort(log_flops)
    cuts = np.flatnonzero(np.diff(log_flops[order]) > _GAP) + 1
    return [rows for rows in np.split(order, cuts) if np.ptp(log_flops[rows]) <= _WIDEST]


def isoflop(
    table: RunTable,
    x: str = "params",
    law_5: Floats | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Isoflop:
    """Fit a parabola per budget and a power law through the vertices. law_5: the surface that corrects the bias.

    Points are drawn within their budget. Raises RefusalError `no-isoflop` with fewer than two usable budgets.
    """
    values = {"params": table.params, "tokens": table.tokens}[x]
    generator = np.random.default_rng(seed)
    cost = fit_cost(table.params, table.tokens, table.flops)
    kept, notices, draws, corrected_draws = [], [], [], []
    for rows in group_budgets(table):
        if len(np.unique(values[rows])) < MIN_SIZES:
            continue
        flops = float(np.exp(np.log(table.flops[rows]).mean()))
        z = np.log(values[rows])
        centre = float(z.mean())
        coefficients = parabola(z - centre, table.losses[rows], np.ones((1, len(rows))))[0]
        if not coefficients[2] > 0:
            notices.append(Notice("budget-left-out", f"{flops:.3g} FLOPs: the losses over {x} have no minimum"))
            continue
        vertex = centre - coefficients[1] / (2 * coefficients[2])
        is_inside = bool(np.sort(z)[1] <= vertex <= np.sort(z)[-2])
        if not is_inside:
            text = f"{flops:.3g} FLOPs: the optimum {np.exp(vertex):.3g} {x} is not inside the measured sizes"
            notices.append(Notice("optimum-at-edge", text))
        shift = None if law_5 is None else _bias(table, rows, z, x, law_5, cost)
        weights = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=num_resamples)
        drawn = parabola(z - centre, table.losses[rows], weights.astype(np.float64))
        with np.errstate(divide="ignore", invalid="ignore"):
            vertices = centre - drawn[:, 1] / (2 * drawn[:, 2])
        is_good = (drawn[:, 2] > 0) & (np.abs(vertices - centre) < 2 * np.ptp(z))
        vertices = np.where(is_good, vertices, vertex)
        draws.append(vertices)
        corrected_draws.append(vertices - (shift or 0.0))
        bounds = percentile(np.exp(vertices), level)
        corrected = None if shift is None else float(np.exp(vertex - shift))
        loss = float(coefficients[0] - coefficients[1] ** 2 / (4 * coefficients[2]))
        c0, c1, c2 = (float(c) for c in coefficients)
        kept.append(
            Budget(flops, rows, (c0, c1, c2), centre, float(np.exp(vertex)), corrected, loss, is_inside, bounds)
        )
    usable = [i for i, budget in enumerate(kept) if budget.is_inside]
    if len(usable) < 2:
        raise refusal(
            "no-isoflop",
            table.path,
            found=f"{len(usable)} budgets with an optimum inside their sizes",
            allowed=f"two or more budgets of {MIN_SIZES} or more sizes at equal FLOPs",
            remedy="Train several sizes at each of several budgets, or name the budgets in a column `budget`.",
        )
    log_flops = np.log([kept[i].flops for i in usable])
    log_factor, power = _line(log_flops, np.log([kept[i].vertex for i in usable]))
    power_draws = _line(log_flops, np.stack([draws[i] for i in usable]))[1]
    corrected_power = corrected_factor = corrected_interval = None
    if law_5 is not None:
        fixed = np.log([kept[i].corrected for i in usable])  # type: ignore[arg-type]
        log_corrected, slope = _line(log_flops, fixed)
        corrected_factor, corrected_power = float(np.exp(log_corrected)), float(slope)
        corrected_interval = percentile(_line(log_flops, np.stack([corrected_draws[i] for i in usable]))[1], level)
    return Isoflop(
        x,
        tuple(kept),
        float(power),
        float(np.exp(log_factor)),
        percentile(np.asarray(power_draws), level),
        corrected_power,
        corrected_factor,
        corrected_interval,
        tuple(notices),
    )


def parabola(z_N: Floats, losses_N: Floats, weight_BN: Floats) -> Floats:
    """Return weighted least-squares coefficients (c₀, c₁, c₂) of every row of weights [B, 3]; NaN where singular."""
    scale = max(float(np.abs(z_N).max()), 1e-12)
    basis_3N = (z_N / scale) ** np.arange(3)[:, None]
    gram = (basis_3N * weight_BN[:, None, :]) @ basis_3N.T
    right = (basis_3N * weight_BN[:, None, :]) @ losses_N
    is_singular = np.linalg.cond(gram) > 1e12
    gram[is_singular] = np.eye(3)
    found = np.linalg.solve(gram, right[:, :, None])[:, :, 0]
    found[is_singular] = np.nan
    scaled: Floats = found / scale ** np.arange(3)
    return scaled


def vertex_shift(half_width: float, alpha: float, beta: float, num_points: int) -> float:
    """Return ln(fitted D / optimal D) of a parabola over an equally spaced grid ±half_width around the optimum in ln D.

    Closed form: along an isoFLOP line the excess loss is proportional to f(w) = e^{αw}/α + e^{−βw}/β.
    """
    w = np.linspace(-half_width, half_width, num_points)
    f = np.exp(alpha * w) / alpha + np.exp(-beta * w) / beta
    squares, fourths = (w**2).sum(), (w**4).sum()
    a1 = (w * f).sum() / squares
    a2 = (num_points * (w**2 * f).sum() - squares * f.sum()) / (num_points * fourths - squares**2)
    return float(-a1 / (2 * a2))


def _bias(table: RunTable, rows: Integers, z: Floats, x: str, law_5: Floats, cost: Cost) -> float:
    """Return the error of log x* that a parabola through these very points makes on the surface of the law."""
    centre = z.mean()
    surface = predict(law_5, table.params[rows], table.tokens[rows])
    c = parabola(z - centre, surface, np.ones((1, len(rows))))[0]
    budget = float(np.exp(np.mean(np.log(cost.of(table.params[rows], table.tokens[rows])))))
    best = allocate(law_5, budget, cost)
    return float(centre - c[1] / (2 * c[2]) - np.log(getattr(best, x)))


def _line(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return intercept and slope of least squares of y [V] or [V, B] over x [V]."""
    centred = x - x.mean()
    slope = centred @ y / (centred @ centred)
    return y.mean(0) - slope * x.mean(), slope
