"""From a checked table to a result: fit, gate, bootstrap, and the warnings of all of them."""

from dataclasses import dataclass

import numpy as np

from sisa_scale.scaling.allocation.frontier import Cost, costs_of
from sisa_scale.scaling.allocation.isoflop import Isoflop, isoflop
from sisa_scale.scaling.allocation.optimal import Allocation, Shape, ShapeChoice, choose_shape, extrapolation, optimal
from sisa_scale.scaling.fit.bootstrap import LEVEL, NUM_RESAMPLES, Draws, bootstrap, jackknife, judge
from sisa_scale.scaling.fit.fitting import Fit, fit
from sisa_scale.scaling.fit.forms import PER_ARCHITECTURE
from sisa_scale.scaling.fit.misfit import misfit
from sisa_scale.scaling.fit.objectives import parse_objective
from sisa_scale.scaling.fit.rises import rises
from sisa_scale.scaling.table.identifiability import MAX_CONDITION, Identifiability, require
from sisa_scale.scaling.table.notices import Notice, RefusalError, refusal
from sisa_scale.scaling.table.table import RunTable

_OTHER_FORMS = ("gamma", "farseer", "width-depth", "compute")


@dataclass(frozen=True, slots=True)
class Analysis:
    """A fit that passed the gate. draws: None for a form whose parameters are not determined."""

    fit: Fit
    identifiability: Identifiability
    draws: Draws | None
    notices: tuple[Notice, ...]

    @property
    def draws_or_refuse(self) -> Draws:
        """The draws of a form that has intervals."""
        assert self.draws is not None
        return self.draws


def analyse(
    table: RunTable,
    form: str = "chinchilla",
    objective: str = "huber:1e-3",
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    needs_law: bool = False,
) -> Analysis:
    """Fit, ask whether the law is determined, and resample. needs_law: refuse forms of other shapes."""
    result = fit(table, form, parse_objective(objective))
    if needs_law and result.form.laws is None:
        raise refusal(
            "bad-request",
            "--form",
            found=repr(form),
            allowed="a form of Chinchilla's shape, which has A, B, E, alpha and beta",
            remedy="Take chinchilla or shared.",
        )
    found = require(result)
    notices = [*table.notices, *result.notices, *found.notices, *rises(result), *misfit(result)]
    if form in _OTHER_FORMS:
        notices.append(Notice("form-not-comparable", f"parameters of {form} do not compare with those of chinchilla"))
    if result.form.laws is None and found.condition > MAX_CONDITION:
        notices.append(Notice("rough-interval", f"condition number {found.condition:.2g}: no intervals"))
        return Analysis(result, found, None, tuple(notices))
    draws = bootstrap(result, num_resamples, seed)
    return Analysis(result, found, draws, (*notices, *judge(draws, found)))


def jackknife_for(found: Analysis) -> Draws | None:
    """Return the fits without each cluster, which BCa intervals need."""
    return None if found.draws is None else jackknife(found.fit)


def analyse_isoflop(
    table: RunTable,
    x: str,
    objective: str = "huber:1e-3",
    *,
    correct_bias: bool = True,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[Isoflop, Analysis | None, list[Notice]]:
    """Return parabolas, the surface that corrects them (None where there is none), and warnings."""
    one_architecture(table, "laws isoflop")
    surface, notices = None, list(table.notices)
    if correct_bias:
        try:
            surface = analyse(table, "chinchilla", objective, num_resamples=num_resamples, seed=seed)
            notices += surface.notices
        except RefusalError as error:
            text = f"vertices are not corrected: {error.problems[0].found} [{error.code}]"
            notices.append(Notice("methods-disagree", text))
    law = None if surface is None else surface.fit.laws_K5[0]
    found = isoflop(table, x, law, level=level)
    notices += found.notices
    if table.train_flops is None:
        notices.append(Notice("flops-6nd", "train_flops is missing"))
    if surface is not None and (gap := disagreement(found, surface.fit)) is not None:
        notices.append(gap)
    return found, surface, notices


def disagreement(found: Isoflop, surface: Fit) -> Notice | None:
    """Warn where the exponent of the surface lies outside the interval of the corrected vertices."""
    interval = found.corrected_interval
    if interval is None:
        return None
    cost = costs_of(surface.table)[0][surface.table.architectures[0]]
    alpha, beta = surface.laws_K5[0, 3:]
    own = (beta if found.x == "params" else alpha) / (alpha + cost.power * beta)
    if interval[0] <= own <= interval[1]:
        return None
    text = f"{found.x} ∝ FLOPs^{own:.3f} by the surface, {interval[0]:.3f} to {interval[1]:.3f} by corrected parabolas"
    return Notice("methods-disagree", text)


def analyse_optimal(
    table: RunTable,
    form: str,
    objective: str,
    budgets: list[float],
    shapes: list[Shape],
    *,
    tokens_max: float = np.inf,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[Analysis, list[Allocation], dict[str, list[ShapeChoice]], list[Notice]]:
    """Return the allocation of every budget, the ranked shapes of every budget, and warnings."""
    if form in PER_ARCHITECTURE:
        one_architecture(table, "laws optimal")
    found = analyse(table, form, objective, num_resamples=num_resamples, seed=seed, needs_law=True)
    costs, notices = costs_of(table)
    cost: Cost = costs[table.architectures[0]]
    draws = found.draws_or_refuse
    allocations = [optimal(found.fit, draws, budget, cost, level) for budget in budgets]
    ranked = {}
    if shapes:
        for budget in budgets:
            ranked[f"{budget:.3g}"] = choose_shape(found.fit, draws, budget, shapes, level, tokens_max)
    far = [notice for budget in budgets for notice in extrapolation(found.fit, budget, cost)]
    return found, allocations, ranked, [*found.notices, *notices, *far]


def one_architecture(table: RunTable, command: str) -> None:
    """Refuse a table of several architectures."""
    if len(table.architectures) > 1:
        raise refusal(
            "mixed-architectures",
            table.path,
            found=", ".join(table.architectures[:5]),
            allowed=f"{command} is about one architecture",
            remedy=f"Take --architecture {table.architectures[0]}.",
        )
