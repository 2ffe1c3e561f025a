"""How much the exponent hangs on single trunks, on the threshold, on outliers, and on how parameters are counted."""

from dataclasses import dataclass, replace

import numpy as np

from sisa_scale.scaling.fit.arrays import Floats
from sisa_scale.scaling.fit.bootstrap import a_of, jackknife
from sisa_scale.scaling.fit.fitting import Fit, fit
from sisa_scale.scaling.fit.objectives import Objective
from sisa_scale.scaling.table.identifiability import examine
from sisa_scale.scaling.table.notices import RefusalError
from sisa_scale.scaling.table.table import RunTable

DELTAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)
_CUTS = (0.0, 0.02, 0.05, 0.1)
_COUNTS = ("params_total", "params_nonembedding")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to fit the same table."""

    choice: str
    value: str
    a: float
    alpha: float
    beta: float
    E: float


def influence(result: Fit) -> tuple[Floats, int]:
    """Return the change of a when a point's trunk is left out [N], and the row of the most influential one."""
    draws = jackknife(result)
    assert draws.laws_BK5 is not None
    _, owner = np.unique(result.table.cluster_N, return_inverse=True)
    change_N = (a_of(draws.laws_BK5[:, 0]) - a_of(result.laws_K5[0]))[owner.ravel()]
    return change_N, int(np.nanargmax(np.abs(change_N)))


def sensitivity(table: RunTable, form: str) -> list[Variant]:
    """Return the exponents under other thresholds, objectives, cuts of the worst losses, and counts of parameters."""
    found = [_variant(table, form, Objective("huber", delta), "Huber threshold", f"{delta:g}") for delta in DELTAS]
    found += [
        _variant(table, form, Objective("lad"), "objective", "lad"),
        _variant(table, form, Objective("squares"), "objective", "log-mse"),
        _variant(table, form, Objective("squares", is_log=False), "objective", "raw-mse"),
    ]
    order = np.argsort(table.losses)
    for cut in _CUTS[1:]:
        keep = np.sort(order[: len(order) - max(1, round(cut * len(order)))])
        found.append(_variant(table.select(keep), form, Objective(), "highest losses left out", f"{cut:.0%}"))
    for name in _COUNTS:
        if name in table.numbers:
            counted = replace(table, params=table.numbers[name])
            found.append(_variant(counted, form, Objective(), "parameters counted as", name))
    return [variant for variant in found if variant is not None]


def _variant(table: RunTable, form: str, objective: Objective, choice: str, value: str) -> Variant | None:
    try:
        result = fit(table, form, objective)
    except RefusalError:
        return None
    if not examine(result).is_identified:
        return None
    law = result.laws_K5[0]
    return Variant(choice, value, float(a_of(law)), float(law[3]), float(law[4]), float(law[2]))
