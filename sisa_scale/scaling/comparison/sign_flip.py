"""Does a larger law describe the runs better than chance? The score of its added parameters, by flips of trunks."""

from sisa_scale.scaling.fit.arrays import Floats, floats
from sisa_scale.scaling.fit.fitting import Fit
from sisa_scale.scaling.fit.forms import bind
from sisa_scale.scaling.fit.sign_flip import score_p_value
from sisa_scale.scaling.fit.terms import SumOfPowers
from sisa_scale.scaling.table.table import RunTable


def flip_p_value(smaller: Fit, form: str, table: RunTable, seed: int = 0) -> float | None:
    """Return the p-value of a least-squares fit against a larger form of the same points; see `score_p_value`."""
    known_NP, every_NP = _derivatives(smaller, form, table)
    return score_p_value(smaller.residual_N, known_NP, every_NP, table.cluster_N, seed)


def _derivatives(smaller: Fit, form: str, table: RunTable) -> tuple[Floats, Floats]:
    """Return the derivatives of log losses by the parameters of the smaller and of the larger law [N, P]."""
    larger, law = bind(form, table).law, smaller.form.law
    assert isinstance(law, SumOfPowers) and isinstance(larger, SumOfPowers)
    theta_1P, numbers = smaller.theta_P[None], range(len(law.terms))
    coefficients = [law.coefficients(theta_1P, i) for i in numbers]
    same_1P = larger.theta(coefficients, [law.exponents(theta_1P, i) for i in numbers])
    return floats(law.evaluate(theta_1P)[1][0].T), floats(larger.evaluate(same_1P)[1][0].T)
