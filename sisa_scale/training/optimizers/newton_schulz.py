"""The orthogonal factor of a matrix, by a Newton-Schulz iteration (Jordan et al. 2024, "Muon").

Shapes: S rows and C columns, S <= C.
"""

import torch
from torch import Tensor

# The quintic a s + b s^3 + c s^5 that a step applies to every singular value: as steep at 0 as can be while values from
# [0, 1] come to lie, and then stay, in [0.68, 1.21].
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
_TINY = 1e-30  # keeps a matrix of zeros what it is


def orthogonalized(matrix: Tensor, steps: int = STEPS) -> Tensor:
    """Return about U V^T of the matrix U S V^T, in its dtype: singular values near 1, at any scale of the matrix.

    Singular values far below the largest are not there yet: after n steps one of s (as a share of the Frobenius norm)
    is at most 3.4445^n s.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x_SC = matrix.mT if is_tall else matrix
    x_SC = x_SC / x_SC.norm().clamp(min=_TINY)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram_SS = x_SC @ x_SC.mT
        x_SC = torch.addmm(x_SC, torch.addmm(gram_SS, gram_SS, gram_SS, beta=b, alpha=c), x_SC, beta=a)
    return x_SC.mT if is_tall else x_SC


def orthogonalization_flops(rows: int, columns: int, steps: int = STEPS) -> int:
    """Return the FLOPs of `orthogonalized`: three products a step."""
    small, large = sorted((rows, columns))
    return steps * (4 * small * small * large + 2 * small**3)
