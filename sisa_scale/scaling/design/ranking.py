"""Rank run designs before anything is spent: the curvature of the law at the planned points predicts the errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sisa_scale.scaling.allocation.frontier import Cost, allocate
from sisa_scale.scaling.fit.arrays import Floats, floats
from sisa_scale.scaling.table.identifiability import MAX_CONDITION, condition_number, exponent_slope
from sisa_scale.scaling.table.notices import refusal

# The optimum of plain Huber on the points of the Chinchilla paper's figure: a typical law until there is a better one.
TYPICAL_LAW = np.array([477.826, 2143.417, 1.817218, 0.34731, 0.367172])
TYPICAL_NOISE = 0.003
_EFFICIENT_STEPS = 400


@dataclass(frozen=True, slots=True)
class Design:
    """Runs to make: parameters and tokens of each."""

    name: str
    params: Floats
    tokens: Floats


@dataclass(frozen=True, slots=True)
class Quality:
    """error_of_a: standard error of the exponent of the best size. error_of_loss: relative, at the target's optimum.

    factor_of_ratio: by which the best tokens per parameter may be off. Infinite where the design determines nothing.
    """

    name: str
    num_runs: int
    flops: float
    condition: float
    error_of_a: float
    error_of_loss: float
    factor_of_ratio: float


def jacobian(law_5: Floats, params: Floats, tokens: Floats) -> Floats:
    """Return the derivatives of log loss by (log A, log B, log E, α, β) [5, N], columns centred at the points."""
    A, B, E, alpha, beta = law_5
    x, y = np.log(params), np.log(tokens)
    parts = np.stack([A * np.exp(-alpha * x), B * np.exp(-beta * y), np.full(len(x), E)])
    share = parts / parts.sum(0)
    return np.concatenate([share, -share[:1] * (x - x.mean()), -share[1:2] * (y - y.mean())])


def quality(design: Design, law_5: Floats, noise: float, target_flops: float, cost: Cost | None = None) -> Quality:
    """Predict what a fit of the design would know. noise: standard deviation of log loss between equal runs."""
    cost = cost or Cost()
    J = jacobian(law_5, design.params, design.tokens)
    condition = condition_number(J)
    is_determined = condition <= MAX_CONDITION
    covariance = floats(noise**2 * np.linalg.inv(J @ J.T)) if is_determined else np.full((5, 5), np.inf)
    of_a = exponent_slope(law_5)
    best = allocate(law_5, target_flops, cost)
    x, y = np.log(best.params) - np.log(design.params).mean(), np.log(best.tokens) - np.log(design.tokens).mean()
    A, B, E, alpha, beta = law_5
    at_params, at_tokens = A * best.params**-alpha, B * best.tokens**-beta
    of_loss = np.array([at_params, at_tokens, E, -at_params * x, -at_tokens * y]) / (E + at_params + at_tokens)
    # log(D*/N*) = log C/k − 2 log N*, and log N* depends on log A − log B, α and β.
    of_ratio = -2 * _slope_of_params(law_5, design, target_flops, cost)
    return Quality(
        design.name,
        len(design.params),
        float(cost.of(design.params, design.tokens).sum()),
        condition,
        _deviation(of_a, covariance),
        _deviation(of_loss, covariance),
        float(np.exp(_deviation(of_ratio, covariance))) if is_determined else float("inf"),
    )


def _deviation(slope: Floats, covariance: Floats) -> float:
    if not np.isfinite(covariance).all():
        return float("inf")
    return float(np.sqrt(max(float(slope @ covariance @ slope), 0.0)))


def _slope_of_params(law_5: Floats, design: Design, flops: float, cost: Cost) -> Floats:
    """Return the derivative of log N* by the centred parameters, by central differences."""
    centres = np.log(design.params).mean(), np.log(design.tokens).mean()
    slope = np.zeros(5)
    for i in range(5):
        values = []
        for sign in (1e-5, -1e-5):
            law = law_5.copy()
            if i < 3:
                law[i] *= np.exp(sign)
            else:
                law[i] += sign
                law[i - 3] *= np.exp(sign * centres[i - 3])
            values.append(float(np.log(allocate(law, flops, cost).params)))
        slope[i] = (values[0] - values[1]) / 2e-5
    return slope


def isoflop_design(
    budgets: Floats, num_sizes: int, spread: float, law_5: Floats, name: str = "", cost: Cost | None = None
) -> Design:
    """Return sizes from best/spread to best·spread at every budget."""
    cost = cost or Cost()
    params = allocate(law_5, budgets[:, None], cost).params * np.geomspace(1 / spread, spread, num_sizes)
    tokens = budgets[:, None] / (cost.factor * params**cost.power)
    label = name or f"isoFLOP, {len(budgets)} budgets x {num_sizes} sizes ±{spread:g}x"
    return Design(label, params.ravel(), tokens.ravel())


def ladder_design(sizes: Floats, ratios: Sequence[float], name: str = "", repeats: int = 1) -> Design:
    """Return every size at every number of tokens per parameter."""
    params, ratio = (part.ravel() for part in np.meshgrid(sizes, np.asarray(ratios, dtype=np.float64)))
    label = name or f"ladder, {len(sizes)} sizes x {len(ratios)} tokens per parameter"
    return Design(label, np.repeat(params, repeats), np.repeat(params * ratio, repeats))


def usual_designs(least_flops: float, greatest_flops: float, law_5: Floats, cost: Cost | None = None) -> list[Design]:
    """Return the designs that people use, between two budgets."""
    cost = cost or Cost()
    budgets = np.geomspace(least_flops, greatest_flops, 5)
    ends = allocate(law_5, np.array([least_flops, greatest_flops]), cost).params
    sizes = np.geomspace(ends[0], ends[1], 6)
    return [
        isoflop_design(budgets, 5, 4.0, law_5, cost=cost),
        isoflop_design(budgets, 5, 2.0, law_5, cost=cost),
        isoflop_design(budgets[::2], 5, 4.0, law_5, cost=cost),
        ladder_design(sizes, (10, 20, 40, 80)),
        ladder_design(sizes[:5], (5, 20, 80, 320)),
        ladder_design(np.geomspace(ends[0], ends[1], 8), (20,), "fixed 20 tokens per parameter, 8 sizes x 3 seeds", 3),
    ]


def choose(candidates: Design, law_5: Floats, budget_flops: float, cost: Cost | None = None) -> Design:
    """Return runs chosen one by one from the candidates, each with the best gain in Var(a) per FLOP, within a budget.

    Every candidate may be taken once. Raises RefusalError `bad-request` when the budget does not pay for five runs.
    """
    cost = cost or Cost()
    flops = cost.of(candidates.params, candidates.tokens)
    J = jacobian(law_5, candidates.params, candidates.tokens)
    of_a = exponent_slope(law_5)
    information = 1e-6 * np.eye(5)
    chosen: list[int] = []
    left = budget_flops
    for _ in range(min(_EFFICIENT_STEPS, len(flops))):
        inverse = np.linalg.inv(information)
        v = inverse @ J
        gain = (of_a @ v) ** 2 / (1 + (J * v).sum(0)) / flops
        gain[chosen] = -1
        gain[flops > left] = -1
        best = int(gain.argmax())
        if gain[best] <= 0:
            break
        chosen.append(best)
        left -= flops[best]
        information = information + np.outer(J[:, best], J[:, best])
    if len(chosen) < 6:
        raise refusal(
            "bad-request",
            "--budget",
            found=f"{budget_flops:.3g} FLOPs, which pay for {len(chosen)} runs",
            allowed="six runs or more",
            remedy="Raise the budget, or lower --from and --to.",
        )
    rows = np.array(sorted(chosen))
    return Design("chosen one by one", candidates.params[rows], candidates.tokens[rows])


def trunk_cost(durations: Floats, cooldown: float = 0.2) -> float:
    """Return the tokens of one trunk with a cooldown branch for each duration, over those of separate runs.

    A branch of duration T leaves the trunk at (1 − cooldown)·T; the longest run is the trunk itself.
    """
    longest = durations.max()
    return float((longest + cooldown * (durations.sum() - longest)) / durations.sum())
