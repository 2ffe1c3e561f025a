"""Do residuals follow the runs' size or tokens per parameter? Then the form is wrong where it is used beyond them."""

from dataclasses import dataclass

import numpy as np

from sisa_scale.scaling.fit.arrays import Floats, floats
from sisa_scale.scaling.fit.fitting import Fit, fit
from sisa_scale.scaling.fit.objectives import Objective
from sisa_scale.scaling.fit.sign_flip import score_p_value
from sisa_scale.scaling.table.notices import Notice, RefusalError

FALSE_ALARMS = 0.05
_DEGREE = 2
_NO_NOISE = 1e-6  # of log loss: an exact law leaves what numbers round to


@dataclass(frozen=True, slots=True)
class Trend:
    """A trend of the residuals over the logarithm of a variable. p_value: None with too few clusters.

    thirds: mean of measured over law, minus 1, in each third of the points by the variable, the least first.
    """

    variable: str
    p_value: float | None
    thirds: tuple[float, float, float]


def trends(result: Fit) -> list[Trend]:
    """Return the trends over tokens per parameter and over parameters: a line and a parabola in the logarithm.

    The test is `score_p_value` of a least-squares fit of the same form, whatever the objective was, so clusters may
    have an error in common. No trend where the form cannot be fitted by least squares, and without noise.
    """
    table = result.table
    try:
        plain = fit(table, result.form.name, Objective("squares"), starts_BP=result.theta_P[None])
    except RefusalError:
        return []
    if np.abs(plain.residual_N).max() < _NO_NOISE:
        return []
    known_NP = floats(plain.form.law.evaluate(plain.theta_P[None])[1][0].T)
    known_NP = known_NP[:, np.linalg.norm(known_NP, axis=0) > 0]
    variables = {"tokens per parameter": table.tokens / table.params, "parameters": table.params}
    found = []
    for name, values in variables.items():
        log_x = np.log(values) - np.log(values).mean()
        reach = np.abs(log_x).max()
        p_value = None
        if reach > 0:
            added_NM = (log_x / reach)[:, None] ** np.arange(1, _DEGREE + 1)
            p_value = score_p_value(plain.residual_N, known_NP, added_NM, table.cluster_N)
        found.append(Trend(name, p_value, _thirds(log_x, plain.residual_N)))
    return found


def misfit(result: Fit) -> list[Notice]:
    """Warn of trends. A law that is right is warned of in 5 % of tables: each of the two tests has half of them."""
    found = trends(result)
    notices = []
    for trend in found:
        if trend.p_value is not None and trend.p_value < FALSE_ALARMS / len(found):
            low, middle, high = (f"{third:+.2%}" for third in trend.thirds)
            text = (
                f"residuals follow {trend.variable} (p = {trend.p_value:.2g}): measured losses are {low} from the law "
                f"in the lowest third, {middle} in the middle, {high} in the highest"
            )
            notices.append(Notice("misfit", text))
    return notices


def _thirds(log_x: Floats, residual_N: Floats) -> tuple[float, float, float]:
    excess = -residual_N[np.argsort(log_x, kind="stable")]
    low, middle, high = (float(np.expm1(part.mean())) for part in np.array_split(excess, 3))
    return low, middle, high
