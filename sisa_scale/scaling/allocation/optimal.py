"""Spend a budget: the best size and tokens under the law, free or among given shapes with exact FLOPs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sisa_scale.scaling.allocation.frontier import Cost, allocate, beyond, predict
from sisa_scale.scaling.fit.arrays import Floats, floats
from sisa_scale.scaling.fit.bootstrap import LEVEL, Draws
from sisa_scale.scaling.fit.fitting import Fit
from sisa_scale.scaling.table.csv_source import read_source
from sisa_scale.scaling.table.notices import Notice, refusal

_FAR = 100.0


@dataclass(frozen=True, slots=True)
class Shape:
    """A model that can be built, with its exact FLOPs per token, forward and backward."""

    name: str
    params_scaling: float
    train_flops_per_token: float


@dataclass(frozen=True, slots=True)
class Allocation:
    """The best split of a budget with intervals."""

    budget_flops: float
    params_scaling: float
    params_interval: list[float] | None
    tokens: float
    tokens_interval: list[float] | None
    tokens_per_parameter: float
    tokens_per_parameter_interval: list[float] | None
    loss: float
    loss_interval: list[float] | None


@dataclass(frozen=True, slots=True)
class ShapeChoice:
    """A shape at the budget. share_best: of the resampled laws under which no other shape is better."""

    name: str
    params_scaling: float
    tokens: float
    train_flops: float
    loss: float
    loss_interval: list[float] | None
    share_best: float


def optimal(result: Fit, draws: Draws, budget: float, cost: Cost, level: float = LEVEL) -> Allocation:
    """Return the best split of a budget in FLOPs."""
    best = allocate(result.laws_K5[0], budget, cost)
    drawn = allocate(_laws(draws), budget, cost)
    return Allocation(
        budget,
        float(best.params),
        draws.interval(drawn.params, level),
        float(best.tokens),
        draws.interval(drawn.tokens, level),
        float(best.tokens / best.params),
        draws.interval(drawn.tokens / drawn.params, level),
        float(best.loss),
        draws.interval(drawn.loss, level),
    )


def choose_shape(
    result: Fit, draws: Draws, budget: float, shapes: list[Shape], level: float = LEVEL, tokens_max: float = np.inf
) -> list[ShapeChoice]:
    """Return the shapes at a budget, the best first; tokens are budget / (FLOPs per token), at most tokens_max."""
    params = floats([shape.params_scaling for shape in shapes])
    per_token = floats([shape.train_flops_per_token for shape in shapes])
    tokens = np.minimum(budget / per_token, tokens_max)
    losses = predict(result.laws_K5[0], params, tokens)
    drawn_BS = predict(_laws(draws)[:, None, :], params, tokens)
    wins = np.bincount(drawn_BS[draws.is_good_B].argmin(1), minlength=len(shapes)) / draws.is_good_B.sum()
    found = [
        ShapeChoice(
            shape.name,
            shape.params_scaling,
            float(tokens[i]),
            float(tokens[i] * per_token[i]),
            float(losses[i]),
            draws.interval(drawn_BS[:, i], level),
            float(wins[i]),
        )
        for i, shape in enumerate(shapes)
    ]
    return sorted(found, key=lambda choice: choice.loss)


def extrapolation(result: Fit, budget: float, cost: Cost) -> list[Notice]:
    """Warn of budgets far beyond the largest run, and of a best split outside of what was measured."""
    found = []
    factor = budget / float(result.table.flops.max())
    if factor > _FAR:
        found.append(Notice("extrapolation", f"{budget:.3g} FLOPs are {factor:.0f} times the largest run"))
    outside = beyond(result.table, result.table.architectures[0], allocate(result.laws_K5[0], budget, cost))
    if outside is not None:
        found.append(Notice("frontier-outside", f"{budget:.3g} FLOPs are best spent on {outside}"))
    return found


def read_shapes(path: Path) -> list[Shape]:
    """Read shapes from a CSV with params_scaling, train_flops_per_token and, if wanted, name."""
    source = read_source(path)
    for name in ("params_scaling", "train_flops_per_token"):
        if name not in source.columns:
            raise refusal(
                "missing-column",
                path,
                found=f"no column {name}",
                allowed="shapes have params_scaling and train_flops_per_token",
                remedy="Add the column; `sisa-scale plan RECIPE --json` prints both numbers.",
            )
    found = []
    for i, line in enumerate(source.lines):
        try:
            params, flops = (float(source.columns[name][i]) for name in ("params_scaling", "train_flops_per_token"))
        except ValueError:
            params = flops = np.nan
        if not (np.isfinite([params, flops]).all() and min(params, flops) > 0):
            raise refusal(
                "bad-number",
                f"{path}:{line}",
                found="a cell that is not a positive number",
                allowed="positive finite numbers",
                remedy="Correct the row.",
            )
        found.append(Shape(source.columns.get("name", [f"line {n}" for n in source.lines])[i], params, flops))
    return found


def _laws(draws: Draws) -> Floats:
    assert draws.laws_BK5 is not None
    return floats(draws.laws_BK5[:, 0])
