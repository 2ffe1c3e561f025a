"""IsoFLOP parabolas: the best size at each budget, and the power law through these sizes.

A parabola through a wide or one-sided grid misses the optimum of a surface that is no parabola. `corrected` vertices
have the error removed that the same grid makes on the fitted Chinchilla surface, where the optimum is known.

Intervals are those of least squares: the noise is one relative standard deviation, pooled over the budgets, for each
budget alone has one to four degrees of freedom. A vertex has Fieller's interval (1954), which is open where the
parabola may be flat; the exponent has the delta method's. Both have Student's t.
"""

from dataclasses import dataclass, replace

import numpy as np

from sisa_scale.scaling.allocation.frontier import Cost, allocate, fit_cost, predict
from sisa_scale.scaling.fit.arrays import Floats, Integers
from sisa_scale.scaling.fit.bootstrap import LEVEL
from sisa_scale.scaling.fit.fieller import vertex_interval
from sisa_scale.scaling.fit.student import quantile
from sisa_scale.scaling.table.notices import Notice, refusal
from sisa_scale.scaling.table.table import RunTable

MIN_SIZES = 4
MIN_BUDGETS = 3  # of an exponent: a line through two vertices has nothing to be tested by
_GAP, _WIDEST = np.log(1.15), np.log(1.7)


@dataclass(frozen=True, slots=True)
class Budget:
    """One parabola loss = c₀ + c₁z + c₂z², z = log x − centre. vertex and corrected are values of x.

    vertex_interval is of the corrected vertex where there is one; an open end is 0 or infinite.
    """

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
    """x* = factor x FLOPs^exponent, from plain and from corrected vertices; None with fewer than MIN_BUDGETS of them.

    noise: relative, of one run's loss.
    """

    x: str
    budgets: tuple[Budget, ...]
    exponent: float | None
    factor: float | None
    interval: list[float] | None
    corrected_exponent: float | None
    corrected_factor: float | None
    corrected_interval: list[float] | None
    noise: float
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
    level: float = LEVEL,
) -> Isoflop:
    """Fit a parabola per budget and a power law through three or more vertices.

    law_5: the surface that corrects the bias.

    Raises RefusalError `no-isoflop` with fewer than two usable budgets.
    """
    values = {"params": table.params, "tokens": table.tokens}[x]
    cost = fit_cost(table.params, table.tokens, table.flops)
    notices: list[Notice] = []
    kept: list[_Parabola] = []
    for rows in group_budgets(table):
        if len(np.unique(values[rows])) < MIN_SIZES:
            continue
        one = _fit_budget(table, rows, values, x, law_5, cost)
        if not one.budget.coefficients[2] > 0:
            text = f"{one.budget.flops:.3g} FLOPs: the losses over {x} have no minimum"
            notices.append(Notice("budget-left-out", text))
            continue
        if not one.budget.is_inside:
            text = f"the optimum {one.budget.vertex:.3g} {x} is not inside the measured sizes"
            notices.append(Notice("optimum-at-edge", f"{one.budget.flops:.3g} FLOPs: {text}"))
        kept.append(one)
    usable = [one for one in kept if one.budget.is_inside]
    if len(usable) < 2:
        raise refusal(
            "no-isoflop",
            table.path,
            found=f"{len(usable)} budgets with an optimum inside their sizes",
            allowed=f"two or more budgets of {MIN_SIZES} or more sizes at equal FLOPs",
            remedy="Train several sizes at each of several budgets, or name the budgets in a column `budget`.",
        )
    degrees = sum(one.degrees for one in kept)
    noise = float(np.sqrt(sum(one.squares for one in kept) / sum(one.expected for one in kept)))
    reach = quantile(level, degrees) * noise
    budgets = tuple(replace(one.budget, vertex_interval=_fieller(one, reach)) for one in kept)
    if len(usable) < MIN_BUDGETS:
        notices.append(Notice("two-budgets", "vertices of two budgets: no exponent"))
        return Isoflop(x, budgets, None, None, None, None, None, None, noise, tuple(notices))
    log_flops = np.log([one.budget.flops for one in usable])
    log_factor, power = _line(log_flops, np.array([one.log_vertex for one in usable]))
    centred = log_flops - log_flops.mean()
    variance_V = np.array([one.vertex_variance for one in usable])
    half = reach * float(np.sqrt(centred**2 @ variance_V)) / float(centred @ centred)
    corrected_power = corrected_factor = corrected_interval = None
    if law_5 is not None:
        log_corrected, slope = _line(log_flops, np.array([one.log_vertex - one.shift for one in usable]))
        corrected_factor, corrected_power = float(np.exp(log_corrected)), float(slope)
        corrected_interval = [corrected_power - half, corrected_power + half]
    return Isoflop(
        x,
        budgets,
        float(power),
        float(np.exp(log_factor)),
        [float(power) - half, float(power) + half],
        corrected_power,
        corrected_factor,
        corrected_interval,
        noise,
        tuple(notices),
    )


@dataclass(frozen=True, slots=True)
class _Parabola:
    """A budget, with what its interval needs.

    squares: of the residuals; expected: the same for a relative noise of 1, as covariance_33 of the coefficients is.
    smooth_3: coefficients on the surface where there is one, else those of the budget.
    """

    budget: Budget
    log_vertex: float
    shift: float
    squares: float
    expected: float
    degrees: int
    covariance_33: Floats
    smooth_3: Floats

    @property
    def vertex_variance(self) -> float:
        """Variance of log x* for a relative noise of 1, by the delta method.

        The mean of two, at the coefficients of the budget and of the surface: the former alone gives intervals that
        are too wide where noise bends the parabola, the latter too narrow, for a flat one strays further.
        """
        variances = []
        for _, c1, c2 in (self.budget.coefficients, self.smooth_3):
            slope_3 = np.array([0.0, -1 / (2 * c2), c1 / (2 * c2**2)])
            variances.append(float(slope_3 @ self.covariance_33 @ slope_3))
        return float(np.mean(variances))


def _fit_budget(table: RunTable, rows: Integers, values: Floats, x: str, law_5: Floats | None, cost: Cost) -> _Parabola:
    z, losses = np.log(values[rows]), table.losses[rows]
    centre, equal = float(z.mean()), np.ones((1, len(rows)))
    c0, c1, c2 = (float(c) for c in parabola(z - centre, losses, equal)[0])
    basis_N3 = (z - centre)[:, None] ** np.arange(3)
    log_vertex = centre - c1 / (2 * c2)
    residuals, shift, smooth_3 = losses - basis_N3 @ [c0, c1, c2], 0.0, np.array([c0, c1, c2])
    if law_5 is not None:
        # What the surface itself leaves over a parabola is no noise.
        surface = predict(law_5, table.params[rows], table.tokens[rows])
        smooth_3 = parabola(z - centre, surface, equal)[0]
        residuals = residuals - (surface - basis_N3 @ smooth_3)
        budget = float(np.exp(np.mean(np.log(cost.of(table.params[rows], table.tokens[rows])))))
        shift = float(centre - smooth_3[1] / (2 * smooth_3[2]) - np.log(getattr(allocate(law_5, budget, cost), x)))
    inside = float(np.sort(z)[1] - centre), float(np.sort(z)[-2] - centre)
    # The noise is relative: the variance of a loss is its square times one number.
    solve_3N = np.linalg.pinv(basis_N3)
    covariance_33 = (solve_3N * losses**2) @ solve_3N.T
    expected = float(((1 - np.einsum("ni,in->n", basis_N3, solve_3N)) * losses**2).sum())
    budget_of = Budget(
        float(np.exp(np.log(table.flops[rows]).mean())),
        rows,
        (c0, c1, c2),
        centre,
        float(np.exp(log_vertex)),
        None if law_5 is None else float(np.exp(log_vertex - shift)),
        c0 - c1**2 / (4 * c2),
        bool(inside[0] <= log_vertex - centre <= inside[1]),
    )
    squares = float((residuals**2).sum())
    return _Parabola(budget_of, log_vertex, shift, squares, expected, len(rows) - 3, covariance_33, smooth_3)


def _fieller(one: _Parabola, reach: float) -> list[float]:
    """Return the ends of the interval of x; an open one is from 0 to infinity."""
    ends = vertex_interval(one.budget.coefficients[1:], one.covariance_33[1:, 1:], reach)
    if ends is None:
        return [0.0, np.inf]
    with np.errstate(over="ignore"):
        return [float(value) for value in np.exp(one.budget.centre + np.array(ends) - one.shift)]


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


def _line(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return intercept and slope of least squares of y [V] or [V, B] over x [V]."""
    centred = x - x.mean()
    slope = centred @ y / (centred @ centred)
    return y.mean(0) - slope * x.mean(), slope
