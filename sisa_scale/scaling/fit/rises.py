"""Does the loss rise by the fitted law with something that should lower it? Forms that cannot rise have no slopes."""

import numpy as np

from sisa_scale.scaling.fit.arrays import Floats, floats
from sisa_scale.scaling.fit.fitting import Fit, residual_error
from sisa_scale.scaling.table.notices import Notice

_SURE = 3.0  # standard errors of a slope that is not zero by chance
_LEAST = 1e-3  # of log loss over log variable: 0.1 % for a factor of e
_STEP = 1e-5


def rises(result: Fit) -> list[Notice]:
    """Warn of every variable with which the law's loss rises at a point of the table, beyond its noise."""
    law, count = result.form.law, len(result.table)
    jacobian_PN = law.evaluate(result.theta_P[None])[1][0]
    covariance_PP = residual_error(result) ** 2 * np.linalg.pinv(
        jacobian_PN @ jacobian_PN.T, rcond=1e-12, hermitian=True
    )
    both = result.theta_P + np.concatenate([np.eye(law.num_parameters), -np.eye(law.num_parameters)]) * _STEP
    nearby = law.slopes(both)
    found = []
    for name, slope_1N in law.slopes(result.theta_P[None]).items():
        slope_N, change_PN = slope_1N[0], _difference(nearby[name])
        error_N = np.sqrt(np.maximum(np.einsum("pn,pq,qn->n", change_PN, covariance_PP, change_PN), 0.0))
        is_rising = slope_N > np.maximum(_LEAST, _SURE * error_N)
        if is_rising.any():
            worst = int(np.where(is_rising, slope_N, -np.inf).argmax())
            doubled, line = np.expm1(slope_N[worst] * np.log(2)), result.table.lines[worst]
            text = (
                f"by the fitted form {result.form.name} the loss rises with {name} at {int(is_rising.sum())} of "
                f"{count} points, most at line {line}: {doubled:+.1%} for twice the {name}. A run may have diverged,"
                " or its learning rate does not suit its size; read nothing from this law where it rises"
            )
            found.append(Notice("loss-rises", text))
    return found


def _difference(values_BN: Floats) -> Floats:
    up, down = np.split(values_BN, 2)
    return floats((up - down) / (2 * _STEP))
