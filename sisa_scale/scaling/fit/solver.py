"""Batched minimisation of robust losses: damped Newton steps for many starts or resamples at once.

The Hessian is that of the points within the threshold, damped by the iteratively reweighted majoriser of all points:
with damping 1 or more a step is a majorise-minimise step and descends; as the damping falls it becomes Newton's.
Resamples are integer weights of the points, not copies. Shapes: see `arrays`.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sisa_scale.scaling.fit.arrays import Booleans, Floats, Integers, floats
from sisa_scale.scaling.fit.objectives import Objective, cost

_CHUNK_ROWS = 200  # of 240 points each: the working set stays in the cache
_TRUST_BOX = 2.0  # greatest change of any parameter in one step
_RIDGE = 1e-12
_LAD_STEPS = 8
_TINY = 1e-300
_FLAT = 1e-10  # of the steepest parameter's slope: a parameter that no loss depends on stays where it is


class Law(Protocol):
    """A law bound to its points."""

    @property
    def num_parameters(self) -> int:
        """P."""
        ...

    def evaluate(self, theta_BP: Floats) -> tuple[Floats, Floats]:
        """Return log loss [B, N] and its derivatives [B, P, N]."""
        ...

    def slopes(self, theta_BP: Floats) -> dict[str, Floats]:
        """Return d log loss / d log variable [B, N] of every variable with which the law may rise."""
        ...


@dataclass(frozen=True, slots=True)
class Solution:
    """The end of every row: parameters, value of the objective, iterations, and whether it is an optimum."""

    theta_BP: Floats
    cost_B: Floats
    iterations_B: Integers
    is_converged_B: Booleans


def minimise(
    law: Law,
    losses_N: Floats,
    start_BP: Floats,
    objective: Objective,
    *,
    weight_BN: Floats | None = None,
    tolerance: float = 1e-12,
    max_iterations: int = 300,
) -> Solution:
    """Minimise the objective from every start. A row has converged when a full step can gain less than `tolerance`."""
    weights = np.ones((len(start_BP), len(losses_N))) if weight_BN is None else weight_BN
    parts = [
        _minimise_chunk(law, losses_N, start_BP[rows], objective, weights[rows], tolerance, max_iterations)
        for rows in np.array_split(np.arange(len(start_BP)), max(1, -(-len(start_BP) // _CHUNK_ROWS)))
    ]
    return Solution(
        np.concatenate([part.theta_BP for part in parts]),
        np.concatenate([part.cost_B for part in parts]),
        np.concatenate([part.iterations_B for part in parts]),
        np.concatenate([part.is_converged_B for part in parts]),
    )


def residuals(law: Law, losses_N: Floats, theta_BP: Floats, is_log: bool) -> tuple[Floats, Floats]:
    """Return residuals [B, N] and their derivatives [B, P, N]."""
    log_BN, jacobian_BPN = law.evaluate(theta_BP)
    if is_log:
        return log_BN - np.log(losses_N), jacobian_BPN
    with np.errstate(over="ignore"):
        predicted_BN = np.exp(log_BN)
    return predicted_BN - losses_N, jacobian_BPN * predicted_BN[:, None, :]


def _minimise_chunk(
    law: Law, losses_N: Floats, start_BP: Floats, objective: Objective, weight_BN: Floats, tolerance: float, limit: int
) -> Solution:
    if objective.kind != "lad":
        return _newton(law, losses_N, start_BP, objective.threshold, objective.is_log, weight_BN, tolerance, limit)
    # |r| is the limit of Huber's loss: follow the optimum as the threshold falls.
    first = _newton(law, losses_N, start_BP, 1e-3, objective.is_log, weight_BN, 1e-6, limit)
    theta_BP, iterations_B = first.theta_BP, first.iterations_B
    scale = float(np.median(np.abs(residuals(law, losses_N, theta_BP, objective.is_log)[0])))
    solution = first
    for step in range(1, _LAD_STEPS + 1):
        threshold = max(scale, 1e-9) * 10.0**-step
        solution = _newton(law, losses_N, theta_BP, threshold, objective.is_log, weight_BN, tolerance, limit)
        theta_BP, iterations_B = solution.theta_BP, iterations_B + solution.iterations_B
    residual_BN = residuals(law, losses_N, theta_BP, objective.is_log)[0]
    return Solution(theta_BP, cost(residual_BN, weight_BN, 0.0), iterations_B, solution.is_converged_B)


def _newton(
    law: Law,
    losses_N: Floats,
    start_BP: Floats,
    threshold: float,
    is_log: bool,
    weight_BN: Floats,
    tolerance: float,
    limit: int,
) -> Solution:
    num_rows, num_parameters = start_BP.shape
    theta_BP = start_BP.copy()
    cost_B, iterations_B = np.full(num_rows, np.inf), np.zeros(num_rows, dtype=np.int64)
    is_converged_B = np.zeros(num_rows, dtype=np.bool_)
    identity = np.eye(num_parameters)
    active = np.arange(num_rows)
    with np.errstate(all="ignore"):
        r, J = residuals(law, losses_N, theta_BP, is_log)
        w = weight_BN
        f = cost(r, w, threshold)
        damping = np.ones(num_rows)
        for _ in range(limit):
            size = np.abs(r)
            gradient = (J @ (w * np.clip(r, -threshold, threshold))[:, :, None])[:, :, 0]
            Jt = J.transpose(0, 2, 1)
            inner = (J * (w * (size <= threshold))[:, None, :]) @ Jt
            every = inner
            if np.isfinite(threshold):
                every = (J * (w * threshold / np.maximum(size, threshold))[:, None, :]) @ Jt
            H = inner + damping[:, None, None] * every
            scale = np.sqrt(np.einsum("bii->bi", every)) + _TINY
            H = H / scale[:, :, None] / scale[:, None, :] + _RIDGE * identity
            is_bad = ~(np.isfinite(H).all((1, 2)) & np.isfinite(gradient).all(1))
            H[is_bad] = identity
            g = np.where(is_bad[:, None], 0.0, gradient / scale)
            step = np.where(is_bad[:, None] | (scale < _FLAT * scale.max(1, keepdims=True)), 0.0, _solve(H, -g) / scale)
            step *= np.minimum(1, _TRUST_BOX / np.maximum(np.abs(step).max(1), _TINY))[:, None]
            r_new, J_new = residuals(law, losses_N, theta_BP[active] + step, is_log)
            f_new = cost(r_new, w, threshold)
            is_better = f_new <= f
            promised = -(gradient * step).sum(1) / np.maximum(f, _TINY)
            gained = (f - f_new) / np.maximum(f, _TINY)
            calmer = np.maximum(damping * np.where(gained > 0.25 * promised, 0.1, 1.0), 1e-10)
            damping = np.where(is_better, calmer, damping * 8 + 1e-9)
            theta_BP[active[is_better]] += step[is_better]
            r = np.where(is_better[:, None], r_new, r)
            J = np.where(is_better[:, None, None], J_new, J)
            f = np.where(is_better, f_new, f)
            iterations_B[active] += 1
            is_done = (is_better & (promised < tolerance)) | (damping > 1e8) | (f < 1e-28) | is_bad
            if is_done.any():
                cost_B[active[is_done]] = f[is_done]
                is_converged_B[active[is_done]] = ~is_bad[is_done]
                keep = ~is_done
                active, J, r, w, f, damping = active[keep], J[keep], r[keep], w[keep], f[keep], damping[keep]
                if not len(active):
                    break
        cost_B[active] = f
    return Solution(theta_BP, cost_B, iterations_B, is_converged_B)


def _solve(H: Floats, g: Floats) -> Floats:
    """Solve every system; where one is singular, use floored eigenvalues for all."""
    try:
        return floats(np.linalg.solve(H, g[:, :, None])[:, :, 0])
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(H)
        values = np.maximum(values, 1e-8 * values[:, -1:])
        return floats((vectors @ ((vectors.transpose(0, 2, 1) @ g[:, :, None]) / values[:, :, None]))[:, :, 0])
