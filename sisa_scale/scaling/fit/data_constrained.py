"""The law of repeated data (Muennighoff et al. 2023, eq. 5 and 6): L = E + A N'^-α + B D'^-β.

D' = U_D + U_D R_D* (1 − exp(−R_D/R_D*)) with U_D unique tokens and R_D = D/U_D − 1 repetitions: the tokens of fresh
data that the repeated ones are worth. N' is the same of N, with U_N the size that U_D fresh tokens are best spent on
(or N if that is smaller): parameters in excess of the data are worth less. Losses level off; they never rise.
Shapes: see `arrays`.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sisa_scale.scaling.fit.arrays import Floats, floats

CONSTANTS = ("R_D_star", "R_N_star")
PUBLISHED = {"R_D_star": 15.387756, "R_N_star": 5.309743}
FULL, NOTHING = 1e9, 1e-3  # constants by which repetition counts fully, or not at all
_MAX_ERROR = 1.0  # standard error of the logarithm: a 95 % interval within a factor of seven to both sides
_AROUND = (0.1, 0.3, 1.0, 3.0, 10.0)  # starts, times the published constants
_LARGEST_LOG_RATIO = 500.0


class DataConstrained:
    """The law bound to its points. Solver parameters: log A', α, log B', β, log E, and the logarithms of `fitted`.

    Coefficients are relative to the geometric means of parameters and `effective_tokens`. fitted: which of CONSTANTS
    are fitted; held: values of the others.
    """

    def __init__(
        self,
        params_N: Floats,
        tokens_N: Floats,
        unique_N: Floats,
        fitted: tuple[str, ...] = CONSTANTS,
        held: Mapping[str, float] = PUBLISHED,
    ) -> None:
        self._params, self._tokens, self._unique = params_N, tokens_N, unique_N
        self._log_params = np.log(params_N)
        self._log_unique = np.log(np.minimum(unique_N, tokens_N))
        self._repetitions = np.maximum(tokens_N / unique_N, 1.0) - 1
        fresh_N = np.log(effective_tokens(tokens_N, unique_N))
        self._centres = float(self._log_params.mean()), float(fresh_N.mean())
        self.fitted, self.held = fitted, {name: held[name] for name in CONSTANTS if name not in fitted}

    @property
    def num_points(self) -> int:
        """N."""
        return len(self._params)

    @property
    def num_parameters(self) -> int:
        """P."""
        return 5 + len(self.fitted)

    def evaluate(self, theta_BP: Floats) -> tuple[Floats, Floats]:
        """Return log loss [B, N] and its derivatives [B, P, N]; NaN where an exponent is not positive."""
        a, alpha, b, beta, e = (theta_BP[:, i, None] for i in range(5))
        of_data, of_size = (self._constant(theta_BP, name)[:, None] for name in CONSTANTS)
        with np.errstate(all="ignore"):
            best, by_a, by_alpha, by_beta = self._log_best_size(a, alpha, b, beta)
            is_excess = best < self._log_params
            log_unique = np.where(is_excess, best, self._log_params)
            excess = np.expm1(np.minimum(self._log_params - log_unique, _LARGEST_LOG_RATIO))
            size, tokens = worth(excess, of_size), worth(self._repetitions, of_data)
            x, y = log_unique + size.log - self._centres[0], self._log_unique + tokens.log - self._centres[1]
            parts = np.stack([a - alpha * x, b - beta * y, np.broadcast_to(e, x.shape)])
            greatest = parts.max(0)
            share = np.exp(parts - greatest)
            total = share.sum(0)
            share /= total
            # U_N moves with A, B, α and β, where it is less than N.
            through = np.where(is_excess, -alpha * share[0] * (1 - size.slope * (excess + 1)), 0.0)
            of_parameter = {"R_N_star": -alpha * share[0] * size.by_constant}
            of_parameter["R_D_star"] = -beta * share[1] * tokens.by_constant
            columns = [
                share[0] + through * by_a,
                -share[0] * x + through * by_alpha,
                share[1] - through * by_a,
                -share[1] * y + through * by_beta,
                share[2],
                *(of_parameter[name] for name in self.fitted),
            ]
            return np.log(total) + greatest, np.stack(columns, axis=1)

    def _constant(self, theta_BP: Floats, name: str) -> Floats:
        if name not in self.fitted:
            return np.full(len(theta_BP), self.held[name])
        with np.errstate(over="ignore"):
            return floats(np.exp(theta_BP[:, 5 + self.fitted.index(name)]))

    def _log_best_size(self, a: Floats, alpha: Floats, b: Floats, beta: Floats) -> tuple[Floats, ...]:
        """Return the logarithm of the best size for the unique tokens, where α A N^-α = β B D^-β, and derivatives.

        By log A' (by log B' is its negative), by α and by β.
        """
        x, y = self._centres
        best = (np.log(alpha) + a + alpha * x - np.log(beta) - b + beta * (self._log_unique - y)) / alpha
        by_beta = (self._log_unique - y - 1 / beta) / alpha
        return best, 1 / alpha, (1 / alpha + x - best) / alpha, by_beta

    def laws(self, theta_BP: Floats) -> Floats:
        """Return (A, B, E, α, β) [B, 1, 5], the law of fresh data."""
        a, alpha, b, beta, e = theta_BP.T[:5]
        with np.errstate(over="ignore"):
            coefficients = np.exp(np.stack([a + alpha * self._centres[0], b + beta * self._centres[1], e]))
        return floats(np.concatenate([coefficients, [alpha, beta]]).T[:, None])

    def publish(self, theta_BP: Floats) -> Floats:
        """Return A, B, E, α, β and the fitted constants."""
        return np.concatenate([self.laws(theta_BP)[:, 0], np.exp(theta_BP[:, 5:])], axis=1)

    def slopes(self, theta_BP: Floats) -> dict[str, Floats]:
        """Return nothing: by this form no loss rises."""
        return {}

    def starts(self, chinchilla_P: Floats) -> Floats:
        """Return starts from the best law of Chinchilla's form of `effective_tokens`, with constants of every size.

        chinchilla_P: log A', α, log B', β, log E.
        """
        middle = np.log([PUBLISHED[name] for name in self.fitted])
        grid = np.array(list(itertools.product(np.log(_AROUND), repeat=len(self.fitted)))) + middle
        return np.concatenate([np.tile(chinchilla_P, (len(grid), 1)), grid], axis=1)

    def holding(self, name: str, value: float) -> "DataConstrained":
        """Return the law with one more constant held."""
        fitted = tuple(other for other in self.fitted if other != name)
        return DataConstrained(self._params, self._tokens, self._unique, fitted, {**self.held, name: value})

    def undetermined(self, theta_P: Floats, losses_N: Floats) -> str | None:
        """Return the fitted constant that the curvature at an optimum knows least, None if it knows all well enough."""
        log_loss_1N, jacobian_1PN = self.evaluate(theta_P[None])
        jacobian_PN = jacobian_1PN[0]
        length_P = np.linalg.norm(jacobian_PN, axis=1)
        is_felt = length_P > 1e-9
        scaled = jacobian_PN[is_felt] / length_P[is_felt, None]
        noise = float(np.std(log_loss_1N[0] - np.log(losses_N)))
        inverse = np.linalg.pinv(scaled @ scaled.T, rcond=1e-18, hermitian=True)
        error_P = np.full(len(theta_P), np.inf)
        error_P[is_felt] = noise * np.sqrt(np.maximum(np.diag(inverse), 0.0)) / length_P[is_felt]
        worst = int(error_P[5:].argmax())
        return None if error_P[5 + worst] <= _MAX_ERROR else self.fitted[worst]


class Worth(NamedTuple):
    """log of g = 1 + R*(1 − exp(−r/R*)); slope: dg/dr over g; by_constant: d log g / d log R*."""

    log: Floats
    slope: Floats
    by_constant: Floats


def worth(repeated: Floats, constant: Floats) -> Worth:
    """Return what 1 + r of a thing are worth, r of them repeated, in units of the first."""
    decay = np.exp(-repeated / constant)
    value = 1 - constant * np.expm1(-repeated / constant)
    lost = -constant * np.expm1(-repeated / constant) - repeated * decay
    return Worth(np.log(value), decay / value, lost / value)


def effective_tokens(tokens: Floats, unique: Floats) -> Floats:
    """Return the tokens of fresh data that repeated ones are worth by the published constant."""
    unique = np.minimum(unique, tokens)
    return floats(unique * np.exp(worth(tokens / unique - 1, np.array(PUBLISHED["R_D_star"])).log))
