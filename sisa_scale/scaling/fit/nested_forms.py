"""Laws that are not sums of powers: the γ form and Farseer's. Variables are centred. Shapes: see `arrays`."""

import numpy as np

from sisa_scale.scaling.fit.arrays import Floats
from sisa_scale.scaling.fit.objectives import Objective
from sisa_scale.scaling.fit.solver import Law, minimise

_NUM_BEST = 4


class Gamma:
    """L = E + (A N^-α + B D^-β)^γ. Solver parameters: log A', α, log B', β, log E, log γ at the centres."""

    num_parameters = 6

    def __init__(self, log_params_N: Floats, log_tokens_N: Floats) -> None:
        self._centres = float(log_params_N.mean()), float(log_tokens_N.mean())
        self._x, self._y = log_params_N - self._centres[0], log_tokens_N - self._centres[1]

    def evaluate(self, theta_BP: Floats) -> tuple[Floats, Floats]:
        """Return log loss [B, N] and its derivatives [B, P, N]."""
        a, alpha, b, beta, e, log_gamma = (theta_BP[:, i, None] for i in range(6))
        gamma = np.exp(log_gamma)
        by_params, by_tokens = a - alpha * self._x, b - beta * self._y
        inner = np.logaddexp(by_params, by_tokens)
        log_loss = np.logaddexp(e, gamma * inner)
        share = np.exp(gamma * inner - log_loss)
        of_params, of_tokens = np.exp(by_params - inner) * gamma * share, np.exp(by_tokens - inner) * gamma * share
        parts = (of_params, -of_params * self._x, of_tokens, -of_tokens * self._y, 1 - share, share * gamma * inner)
        return log_loss, np.stack(parts, axis=1)

    def slopes(self, theta_BP: Floats) -> dict[str, Floats]:
        """Return d log loss / d log variable [B, N]."""
        jacobian_BPN = self.evaluate(theta_BP)[1]
        alpha, beta = theta_BP[:, 1, None], theta_BP[:, 3, None]
        return {"parameters": -alpha * jacobian_BPN[:, 0], "tokens": -beta * jacobian_BPN[:, 2]}

    def publish(self, theta_BP: Floats) -> Floats:
        """Return A, B, E, α, β, γ."""
        a, alpha, b, beta, e, log_gamma = theta_BP.T
        with np.errstate(over="ignore"):
            coefficients = np.exp(np.stack([a + alpha * self._centres[0], b + beta * self._centres[1], e]))
        return np.concatenate([coefficients, [alpha, beta, np.exp(log_gamma)]]).T

    def starts(self, chinchilla_BP: Floats) -> Floats:
        """Return starts from those of Chinchilla's form (log A', α, log B', β, log E), with several γ."""
        parts = []
        for gamma in (0.3, 0.6, 1.0):
            powers = chinchilla_BP.copy()
            powers[:, :4] /= gamma
            parts.append(np.concatenate([powers, np.full((len(powers), 1), np.log(gamma))], axis=1))
        return np.concatenate(parts)


class Farseer:
    """L = exp(a₃n^γ + b₃) + exp(a₂n^β + b₂) D^-exp(a₁n^α + b₁) with n and D relative to their geometric means.

    Parameters are published for these relative variables: (a₁, b₁, α, a₂, b₂, β, a₃, b₃, γ).
    """

    num_parameters = 9

    def __init__(self, log_params_N: Floats, log_tokens_N: Floats) -> None:
        self._x, self._y = log_params_N - log_params_N.mean(), log_tokens_N - log_tokens_N.mean()

    def evaluate(self, theta_BP: Floats) -> tuple[Floats, Floats]:
        """Return log loss [B, N] and its derivatives [B, P, N]."""
        a1, b1, alpha, a2, b2, beta, a3, b3, gamma = (theta_BP[:, i, None] for i in range(9))
        p1, p2, p3 = np.exp(alpha * self._x), np.exp(beta * self._x), np.exp(gamma * self._x)
        exponent = np.exp(a1 * p1 + b1)
        by_tokens, by_params = a2 * p2 + b2 - exponent * self._y, a3 * p3 + b3
        log_loss = np.logaddexp(by_params, by_tokens)
        u, v = np.exp(by_tokens - log_loss), np.exp(by_params - log_loss)
        slope = -u * self._y * exponent
        parts = (slope * p1, slope, slope * a1 * p1 * self._x, u * p2, u, u * a2 * p2 * self._x, v * p3, v,
                 v * a3 * p3 * self._x)  # fmt: skip
        return log_loss, np.stack(parts, axis=1)

    def slopes(self, theta_BP: Floats) -> dict[str, Floats]:
        """Return d log loss / d log parameters [B, N]; by this form no loss rises with tokens."""
        J = self.evaluate(theta_BP)[1]
        a1, _, alpha, a2, _, beta, a3, _, gamma = (theta_BP[:, i, None] for i in range(9))
        return {"parameters": a1 * alpha * J[:, 0] + a2 * beta * J[:, 3] + a3 * gamma * J[:, 6]}

    def publish(self, theta_BP: Floats) -> Floats:
        """Return the parameters as they are."""
        return theta_BP

    def starts(self, chinchilla_BP: Floats, law: Law, losses_N: Floats) -> Floats:
        """Return starts near the best laws of Chinchilla's form."""
        found = minimise(law, losses_N, chinchilla_BP, Objective(), tolerance=1e-8)
        rows = found.theta_BP[np.argsort(found.cost_B)[:_NUM_BEST]]
        starts = []
        for a, alpha, b, beta, e in rows:
            part = np.log1p(np.exp(a - e))
            for tilt in (-0.1, 0.0, 0.1):
                starts.append([tilt, np.log(max(beta, 0.02)), 0.2, 0.1, b - 0.1, 0.1, part, e, -max(alpha, 0.02)])
        return np.array(starts)
