"""The compute-optimal frontier of a law (A, B, E, α, β) under a cost K N^p D.

p is 1 where FLOPs are proportional to the counted parameters; attention, heads and scans bend it a little. All
functions broadcast over laws [..., 5].
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sisa_scale.scaling.fit.arrays import Floats
from sisa_scale.scaling.table.notices import Notice
from sisa_scale.scaling.table.table import RunTable

_MAX_MISFIT = 0.05


@dataclass(frozen=True, slots=True)
class Cost:
    """cost = factor x params^power x tokens, in FLOPs or seconds. misfit: greatest relative error on its points."""

    factor: float = 6.0
    power: float = 1.0
    misfit: float = 0.0

    def of(self, params: Floats, tokens: Floats) -> Floats:
        """Return the cost."""
        value: Floats = self.factor * params**self.power * tokens
        return value


class Optimum(NamedTuple):
    """Parameters, tokens and loss of the best split."""

    params: Floats
    tokens: Floats
    loss: Floats


def fit_cost(params: Floats, tokens: Floats, costs: Floats) -> Cost:
    """Fit the cost per token as a power of the parameters."""
    x, y = np.log(params), np.log(costs / tokens)
    power = 1.0
    if len(np.unique(params)) >= 3:
        power = float(np.polyfit(x - x.mean(), y, 1)[0])
        if abs(power - 1) < 1e-9:
            power = 1.0
    factor = float(np.exp((y - power * x).mean()))
    misfit = float(np.max(np.abs(np.expm1(y - power * x - np.log(factor)))))
    return Cost(factor, power, misfit)


def costs_of(table: RunTable, unit: str = "flops") -> tuple[dict[str, Cost], list[Notice]]:
    """Return the cost of every architecture in FLOPs or seconds, and what there is to warn of."""
    values = table.flops if unit == "flops" else table.seconds
    assert values is not None
    found, notices = {}, []
    for name in table.architectures:
        rows = table.architecture_N == name
        found[name] = fit_cost(table.params[rows], table.tokens[rows], values[rows])
        if found[name].misfit > _MAX_MISFIT:
            text = f"{unit} of {name}: up to {found[name].misfit:.0%} from a power of parameters times tokens"
            notices.append(Notice("cost-model", text))
    if unit == "flops" and table.train_flops is None:
        notices.append(Notice("flops-6nd", "train_flops is missing"))
    return found, notices


def allocate(laws: Floats, budget: Floats | float, cost: Cost) -> Optimum:
    """Return the split of a budget with the least loss."""
    A, B, E, alpha, beta = np.moveaxis(laws, -1, 0)
    p = cost.power
    log_scale = (np.log(alpha * A) - np.log(p * beta * B)) / (alpha + p * beta)
    log_params = log_scale + beta / (alpha + p * beta) * np.log(budget / cost.factor)
    log_tokens = np.log(budget / cost.factor) - p * log_params
    loss = E + A * np.exp(-alpha * log_params) + B * np.exp(-beta * log_tokens)
    return Optimum(np.exp(log_params), np.exp(log_tokens), loss)


def reach(laws: Floats, loss: Floats | float, cost: Cost) -> tuple[Floats, Optimum]:
    """Return the least cost of a loss and its split; NaN where the loss is not above E."""
    A, B, E, alpha, beta = np.moveaxis(laws, -1, 0)
    p = cost.power
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        by_params = (loss - E) * p * beta / (alpha + p * beta)
        params = (A / by_params) ** (1 / alpha)
        tokens = (B * p * beta / (by_params * alpha)) ** (1 / beta)
        needed = cost.of(params, tokens)
    is_reached = np.isfinite(needed) & (loss > E)
    needed = np.where(is_reached, needed, np.nan)
    return needed, Optimum(params, tokens, np.broadcast_to(np.asarray(loss, dtype=np.float64), needed.shape))


def beyond(table: RunTable, name: str, best: Optimum) -> str | None:
    """Say which of the best size and tokens lies outside of what an architecture measured; None if neither does."""
    rows, parts = table.architecture_N == name, []
    for what, value, measured in (("parameters", best.params, table.params), ("tokens", best.tokens, table.tokens)):
        low, high = float(measured[rows].min()), float(measured[rows].max())
        if not low <= float(value) <= high:
            parts.append(f"{float(value):.3g} {what} ({low:.3g} to {high:.3g} measured)")
    return " and ".join(parts) or None


def tokens_for(laws: Floats, loss: Floats | float, params: Floats) -> Floats:
    """Return the tokens with which a model of this size reaches a loss; NaN where it never does."""
    A, B, E, alpha, beta = np.moveaxis(laws, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        left = loss - E - A * params**-alpha
        value: Floats = np.where(left > 0, (B / np.where(left > 0, left, 1.0)) ** (1 / beta), np.nan)
    return value


def predict(laws: Floats, params: Floats | float, tokens: Floats | float) -> Floats:
    """Return the loss of the law."""
    A, B, E, alpha, beta = np.moveaxis(laws, -1, 0)
    value: Floats = E + A * np.exp(-alpha * np.log(params)) + B * np.exp(-beta * np.log(tokens))
    return value


def exponent(laws: Floats, cost: Cost) -> Floats:
    """Return a of params ∝ compute^a."""
    alpha, beta = laws[..., 3], laws[..., 4]
    value: Floats = beta / (alpha + cost.power * beta)
    return value
