"""Do architectures differ in nothing, in efficiency, in E too, or in their exponents as well? Nested models compared.

Each is fitted by least absolute deviations (Laplace likelihood), and tested against the one before by sign flips of
trunks. The last column is out of sample: the law is fitted without the largest fifth of the compute of each
architecture and scored on it.
"""

from dataclasses import dataclass, replace

import numpy as np

from sisa_scale.scaling.comparison.sign_flip import flip_p_value
from sisa_scale.scaling.fit.arrays import Booleans, Floats
from sisa_scale.scaling.fit.fitting import fit
from sisa_scale.scaling.fit.forms import bind
from sisa_scale.scaling.fit.objectives import Objective
from sisa_scale.scaling.table.notices import RefusalError
from sisa_scale.scaling.table.table import ONLY, RunTable

MODELS = ("chinchilla", "shared", "shared-e", "separate")
_HELD_OUT = 0.2


@dataclass(frozen=True, slots=True)
class Nested:
    """One model. error_of_largest: mean |relative|.

    p_value: against the model before it, by `sign_flip`. aicc: None where points share a trunk, for it counts every
    point as independent.
    """

    form: str
    num_parameters: int
    mean_absolute_residual: float
    aicc: float | None
    p_value: float | None
    error_of_largest: float | None


def compare_nested(table: RunTable) -> list[Nested]:
    """Return the models that the table can carry, the simplest first."""
    pooled = replace(table, architecture_N=np.full(len(table), ONLY))
    is_independent = len(np.unique(table.cluster_N)) == len(table)
    found: list[Nested] = []
    before: RunTable | None = None
    for name in MODELS:
        subject = pooled if name == "chinchilla" else table
        try:
            result = fit(subject, name, Objective("lad"))
        except RefusalError:
            continue
        count, p = len(table), result.form.law.num_parameters + 1
        mean = max(result.cost / count, 1e-15)
        log_likelihood = -count * (np.log(2 * mean) + 1)
        aicc = None
        if is_independent and count - p - 1 > 0:
            aicc = float(-2 * log_likelihood + 2 * p + 2 * p * (p + 1) / (count - p - 1))
        p_value = None
        if before is not None:
            p_value = flip_p_value(fit(before, found[-1].form, Objective("squares")), name, table)
        before = subject
        found.append(Nested(name, p - 1, mean, aicc, p_value, error_of_largest(subject, name, table)))
    return found


def largest(table: RunTable, share: float = _HELD_OUT) -> Booleans:
    """Return the rows of the largest compute of every architecture: a share of them, one at least."""
    held = np.zeros(len(table), dtype=np.bool_)
    for name in table.architectures:
        rows = np.flatnonzero(table.architecture_N == name)
        held[rows[np.argsort(table.flops[rows])[-max(1, round(share * len(rows))) :]]] = True
    return held


def error_of_largest(subject: RunTable, form: str, table: RunTable) -> float | None:
    """Return the mean |relative error| on the largest runs of a law fitted without them."""
    held = largest(table)
    try:
        result = fit(subject.select(~held), form, Objective("lad"))
    except RefusalError:
        return None
    predicted = predict_rows(subject, form, result.theta_P, ~held)[held]
    return float(np.mean(np.abs(np.expm1(predicted - np.log(table.losses[held])))))


def predict_rows(table: RunTable, form: str, theta_P: Floats, fitted: Booleans) -> Floats:
    """Return log losses of all rows under parameters that were fitted on some of them.

    The solver's parameters are relative to the centres of their rows: they go through the published law.
    """
    part = bind(form, table.select(fitted))
    assert part.laws is not None
    laws = part.laws(theta_P[None])[0]
    order = {name: min(k, len(laws) - 1) for k, name in enumerate(table.select(fitted).architectures)}
    law_N5 = np.array([laws[order[str(name)]] for name in table.architecture_N])
    value: Floats = np.log(
        law_N5[:, 2] + law_N5[:, 0] * table.params ** -law_N5[:, 3] + law_N5[:, 1] * table.tokens ** -law_N5[:, 4]
    )
    return value
