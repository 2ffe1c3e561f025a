"""Answer `laws design`: the usual grids ranked, runs chosen within a budget, and the best as a table."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sisa_scale.scaling.allocation.frontier import Cost, costs_of
from sisa_scale.scaling.analysis import one_architecture
from sisa_scale.scaling.design.ranking import (
    TYPICAL_LAW,
    Design,
    Quality,
    choose,
    isoflop_design,
    quality,
    usual_designs,
)
from sisa_scale.scaling.fit.arrays import Floats
from sisa_scale.scaling.fit.fitting import fit
from sisa_scale.scaling.fit.forms import LAW
from sisa_scale.scaling.table.checks import load_table
from sisa_scale.scaling.table.identifiability import MAX_CONDITION, require
from sisa_scale.scaling.table.notices import Notice, refusal

_CANDIDATE_BUDGETS, _CANDIDATE_SIZES, _CANDIDATE_SPREAD = 9, 9, 6.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Designs with what they would know, the best of them, and the law and noise that were assumed."""

    qualities: tuple[Quality, ...]
    best: Design
    assumed: str
    parameters: dict[str, float]
    noise: float
    notices: tuple[Notice, ...]


def plan_designs(
    *,
    least: float,
    greatest: float,
    budget: float | None,
    target: float,
    noise: float,
    error_of_a: float | None,
    table: Path | None,
) -> Plan:
    """Rank designs between two budgets. The best has the least error of a, or is the cheapest that reaches error_of_a.

    With `budget` only designs that cost no more count, and runs are chosen one by one as well.
    """
    if not (0 < least < greatest and noise > 0 and target > 0):
        raise refusal(
            "bad-request",
            "--from, --to, --noise",
            found=f"{least:g}, {greatest:g}, {noise:g}",
            allowed="0 < from < to and a positive noise",
            remedy="Budgets are FLOPs of one run.",
        )
    law, cost, noise, assumed, notices = _assumed(table, noise)
    designs = usual_designs(least, greatest, law, cost)
    if budget is not None:
        grid = np.geomspace(least, greatest, _CANDIDATE_BUDGETS)
        candidates = isoflop_design(grid, _CANDIDATE_SIZES, _CANDIDATE_SPREAD, law, cost=cost)
        designs.append(choose(candidates, law, budget, cost))
    qualities = [quality(design, law, noise, target, cost) for design in designs]
    usable = [i for i, one in enumerate(qualities) if one.condition <= MAX_CONDITION]
    if budget is not None:
        usable = [i for i in usable if qualities[i].flops <= budget]
    if error_of_a is not None:
        reaching = [i for i in usable if qualities[i].error_of_a <= error_of_a]
        if not reaching:
            raise refusal(
                "bad-request",
                "--error-of-a",
                found=f"{error_of_a:g}",
                allowed=f"the best of these designs has {min(qualities[i].error_of_a for i in usable):.2g}",
                remedy="Raise --to or --budget, or lower the noise with seeds.",
            )
        best = min(reaching, key=lambda i: qualities[i].flops)
    else:
        best = min(usable, key=lambda i: qualities[i].error_of_a)
    if target > 100 * greatest:
        notices.append(Notice("extrapolation", f"the target is {target / greatest:.0f} times the greatest budget"))
    parameters = dict(zip(LAW, map(float, law), strict=True))
    return Plan(tuple(qualities), designs[best], assumed, parameters, noise, tuple(notices))


def design_csv(design: Design) -> str:
    """Return the runs of a design as a CSV."""
    rows = zip(design.params, design.tokens, strict=True)
    return "params_scaling,tokens\n" + "".join(f"{params:.6g},{tokens:.6g}\n" for params, tokens in rows)


def _assumed(table: Path | None, noise: float) -> tuple[Floats, Cost, float, str, list[Notice]]:
    """Return law, cost, noise, what they come from, and warnings."""
    if table is None:
        return TYPICAL_LAW, Cost(), noise, "a typical one, fitted to published Chinchilla points", []
    runs = load_table(table)
    one_architecture(runs, "laws design --table")
    result = fit(runs)
    found = require(result)
    costs, notices = costs_of(runs)
    cost = next(iter(costs.values()))
    return result.laws_K5[0], cost, max(found.noise, 1e-6), f"fitted to {table}", [*runs.notices, *notices]
