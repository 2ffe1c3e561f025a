"""Fit a form to a table: many starts, the best optimum, and what there is to say about it."""

from dataclasses import dataclass, field

import numpy as np

from sisa_scale.scaling.fit.arrays import Floats, floats
from sisa_scale.scaling.fit.forms import LAW, PER_ARCHITECTURE, BoundForm, bind
from sisa_scale.scaling.fit.objectives import Objective
from sisa_scale.scaling.fit.solver import minimise, residuals
from sisa_scale.scaling.table.notices import Notice, refusal
from sisa_scale.scaling.table.table import RunTable

_SAME_OPTIMUM = 1e-6
_NUM_REFINED = 6
_OUTLIER_SIGMAS = 8.0


@dataclass(frozen=True, slots=True)
class Fit:
    """An optimum. theta_P: solver parameters; cost: the objective; residual_N: log predicted − log measured loss."""

    table: RunTable
    form: BoundForm
    objective: Objective
    theta_P: Floats
    cost: float
    share_of_starts: float
    num_starts: int
    notices: tuple[Notice, ...] = field(default=())

    @property
    def residual_N(self) -> Floats:  # noqa: N802
        """Residuals of log loss."""
        return floats(residuals(self.form.law, self.table.losses, self.theta_P[None], is_log=True)[0][0])

    @property
    def published(self) -> dict[str, float]:
        """Published parameters by name."""
        return dict(zip(self.form.names, map(float, self.form.publish(self.theta_P[None])[0]), strict=True))

    @property
    def laws_K5(self) -> Floats:  # noqa: N802
        """(A, B, E, α, β) of every architecture. Only for forms of Chinchilla's shape."""
        assert self.form.laws is not None
        return floats(self.form.laws(self.theta_P[None])[0])

    @property
    def law_of(self) -> dict[str, Floats]:
        """The law of every architecture."""
        return dict(zip(self.table.architectures, self.laws_K5, strict=True))


def fit(
    table: RunTable, form: str = "chinchilla", objective: Objective | None = None, starts_BP: Floats | None = None
) -> Fit:
    """Fit by many starts (variable projection over a grid of exponents unless given).

    Raises RefusalError for too few runs, for several architectures in a form for one, and where no start converges.
    Whether the optimum means anything is the question of `identifiability.require`.
    """
    objective = objective or Objective()
    if form not in PER_ARCHITECTURE and len(table.architectures) > 1:
        raise refusal(
            "mixed-architectures",
            table.path,
            found=", ".join(table.architectures[:5]),
            allowed=f"the form {form} is one law for one architecture",
            remedy=f"Take --architecture {table.architectures[0]}, or --form shared.",
        )
    bound = bind(form, table)
    notices = [*bound.notices, *check_counts(table, bound)]
    starts_BP = bound.starts(table.losses) if starts_BP is None else starts_BP
    smooth = objective if objective.kind != "lad" else Objective("huber", 1e-3, objective.is_log)
    found = minimise(bound.law, table.losses, starts_BP, smooth)
    if objective.kind == "lad":
        refined = found.theta_BP[np.argsort(np.nan_to_num(found.cost_B, nan=np.inf))[:_NUM_REFINED]]
        found = minimise(bound.law, table.losses, refined, objective)
    cost_B = np.where(np.isfinite(found.theta_BP).all(1) & np.isfinite(found.cost_B), found.cost_B, np.inf)
    best = int(cost_B.argmin())
    if not np.isfinite(cost_B[best]):
        raise refusal(
            "no-convergence",
            table.path,
            found="no optimum from any start",
            allowed=f"the form {form} describes the losses",
            remedy="Look at the losses over parameters and tokens; try --form chinchilla.",
        )
    share = float(np.mean(cost_B <= cost_B[best] * (1 + _SAME_OPTIMUM) + 1e-300))
    result = Fit(table, bound, objective, found.theta_BP[best], float(cost_B[best]), share, len(starts_BP))
    return Fit(
        table, bound, objective, result.theta_P, result.cost, share, len(starts_BP), (*notices, *_outliers(result))
    )


def check_counts(table: RunTable, form: BoundForm) -> list[Notice]:
    """Refuse tables with fewer points, sizes or token counts than the form needs; warn of few."""
    needed = form.law.num_parameters + 2
    points = {(a, n, d) for a, n, d in zip(table.architecture_N, table.params, table.tokens, strict=True)}
    found = ""
    if len(points) < needed:
        found = f"{len(points)} different points"
    for name in table.architectures if form.name in PER_ARCHITECTURE else [None]:
        rows = np.ones(len(table), dtype=bool) if name is None else table.architecture_N == name
        if form.name != "compute":
            sizes, counts = len(np.unique(table.params[rows])), len(np.unique(table.tokens[rows]))
            least = form.num_sizes_needed if name is None or form.name == "separate" else 2
            if min(sizes, counts) < least:
                found = f"{sizes} sizes and {counts} token counts" + (f" of {name}" if name else "")
    if found:
        raise refusal(
            "too-few-runs",
            table.path,
            found=found,
            allowed=f"the form {form.name} has {form.law.num_parameters} parameters and needs {needed} points of "
            f"at least {form.num_sizes_needed} sizes and {form.num_sizes_needed} token counts",
            remedy="Train more sizes at more token counts; `sisa-scale laws design` finds cheap ones.",
        )
    if len(points) < 2 * needed:
        text = f"{len(points)} different points for {form.law.num_parameters} parameters"
        return [Notice("few-runs", text)]
    return []


def spread(residual_N: Floats) -> float:
    """Return a robust standard deviation: 1.4826 times the median of |r|."""
    return float(1.4826 * np.median(np.abs(residual_N)))


def residual_error(result: Fit) -> float:
    """Return the standard deviation of log loss around the law, corrected for the fitted parameters."""
    count, fitted = len(result.table), result.form.law.num_parameters
    factor = np.sqrt(count / max(count - fitted, 1))
    if result.objective.kind == "squares":
        return float(factor * np.sqrt(np.mean(result.residual_N**2)))
    return float(factor * spread(result.residual_N))


def _outliers(result: Fit) -> list[Notice]:
    residual_N, sigma = result.residual_N, spread(result.residual_N)
    rows = np.flatnonzero(np.abs(residual_N) > max(_OUTLIER_SIGMAS * sigma, 1e-6))
    if not len(rows):
        return []
    worst = rows[np.argsort(-np.abs(residual_N[rows]))][:5]
    shown = ", ".join(f"line {result.table.lines[i]} ({np.expm1(-residual_N[i]):+.1%})" for i in worst)
    return [Notice("outliers", f"{len(rows)} points are over {_OUTLIER_SIGMAS:g} spreads from the law: {shown}")]


def parameters_of(result: Fit) -> dict[str, float]:
    """Return A, B, E, alpha, beta (of the first architecture) and the form's own parameters."""
    if result.form.laws is None:
        return result.published
    own = dict(list(result.published.items())[result.laws_K5.size :])
    return dict(zip(LAW, map(float, result.laws_K5[0]), strict=True)) | own
