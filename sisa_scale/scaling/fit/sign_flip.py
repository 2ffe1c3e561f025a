"""Is there more in the residuals of a fit than noise? A score test that takes trunks, not points, as independent.

The score of added directions at the optimum is a sum over clusters. If the law is true, each cluster's part is as
likely with the other sign; the p-value is the share of sign flips with a score as large (Hemerik, Goeman & Finos 2020).
Every flip's score is divided by its own variance under the fitted law (De Santis et al. 2022), without which few
clusters reject too often. Shapes: see `arrays`; C cluster, F flip, M tested direction.
"""

import numpy as np

from sisa_scale.scaling.fit.arrays import Floats, Integers, floats

MIN_CLUSTERS = 8
_NUM_FLIPS = 2000
_ENUMERATED = 12  # clusters whose flips are all tried
_RATIOS = (0.0, *np.geomspace(0.03, 300, 17))  # variance between clusters over variance within


def score_p_value(
    residual_N: Floats, known_NP: Floats, added_NM: Floats, cluster_N: Integers, seed: int = 0
) -> float | None:
    """Return the p-value of least-squares residuals against directions that the fitted ones do not have.

    known_NP: derivatives of the losses by the fitted parameters; added_NM: the directions to test. None with fewer than
    MIN_CLUSTERS clusters, where the least p-value would be above 0.01, and where nothing is left to test.
    """
    _, owner_N, size_C = np.unique(cluster_N, return_inverse=True, return_counts=True)
    owner_N, num_clusters = owner_N.ravel(), len(size_C)
    if num_clusters < MIN_CLUSTERS or known_NP.shape[1] >= len(residual_N):
        return None
    shrink_C = _shrinking(residual_N, orthonormal(known_NP), owner_N, size_C)
    nuisance_NP = orthonormal(_whiten(known_NP, owner_N, shrink_C))
    residual_N = without(nuisance_NP, _whiten(residual_N, owner_N, shrink_C))
    left_NM = without(nuisance_NP, _whiten(added_NM, owner_N, shrink_C))
    if np.linalg.norm(left_NM) <= 1e-9 * np.linalg.norm(added_NM):
        return None
    tested_NM = orthonormal(left_NM)
    score_CM = _sum(tested_NM * residual_N[:, None], owner_N, num_clusters)
    overlap_CMP = _sum(tested_NM[:, :, None] * nuisance_NP[:, None, :], owner_N, num_clusters)
    sign_FC = flips(num_clusters, seed)
    score_FM = sign_FC @ score_CM
    overlap_FMP = np.tensordot(sign_FC, overlap_CMP, axes=1)
    variance_FMM = np.eye(tested_NM.shape[1]) - overlap_FMP @ overlap_FMP.transpose(0, 2, 1)
    inverse_FMM = np.linalg.pinv(variance_FMM, rcond=1e-9, hermitian=True)
    size_F = np.einsum("fm,fmn,fn->f", score_FM, inverse_FMM, score_FM)
    return float(np.mean(size_F >= size_F[0] * (1 - 1e-9)))


def flips(num_clusters: int, seed: int) -> Floats:
    """Return signs [F, C], the first row without a flip: all of them for few clusters, else drawn ones."""
    if num_clusters <= _ENUMERATED:
        rows = np.arange(2 ** (num_clusters - 1))[:, None] >> np.arange(num_clusters) & 1
        return floats(1 - 2 * rows)
    drawn = np.random.default_rng(seed).integers(0, 2, (_NUM_FLIPS, num_clusters))
    drawn[0] = 0
    return floats(1 - 2 * drawn)


def without(basis_NP: Floats, columns: Floats) -> Floats:
    """Return the columns without their part in the span of an orthonormal basis."""
    return floats(columns - basis_NP @ (basis_NP.T @ columns))


def orthonormal(columns_NP: Floats) -> Floats:
    """Return an orthonormal basis of the columns, the greatest directions first."""
    left, singular, _ = np.linalg.svd(columns_NP, full_matrices=False)
    return floats(left[:, singular > 1e-9 * singular[0]])


def _shrinking(residual_N: Floats, nuisance_NP: Floats, owner_N: Integers, size_C: Integers) -> Floats:
    """Return the share of each cluster's mean to take away, so that noise of runs and of clusters becomes even.

    By restricted likelihood.
    """
    best_C, best_cost = np.zeros(len(size_C)), np.inf
    if size_C.max() == 1:
        return best_C
    for ratio in _RATIOS:
        shrink_C = 1 - 1 / np.sqrt(1 + size_C * ratio)
        white_NP = _whiten(nuisance_NP, owner_N, shrink_C)
        rest_N = without(orthonormal(white_NP), _whiten(residual_N, owner_N, shrink_C))
        degrees = len(residual_N) - nuisance_NP.shape[1]
        cost = np.log1p(size_C * ratio).sum() + np.linalg.slogdet(white_NP.T @ white_NP)[1]
        cost += degrees * np.log(max(float(rest_N @ rest_N), 1e-300))
        if cost < best_cost:
            best_C, best_cost = shrink_C, cost
    return floats(best_C)


def _whiten(values: Floats, owner_N: Integers, shrink_C: Floats) -> Floats:
    counts_C = np.bincount(owner_N).reshape(-1, *[1] * (values.ndim - 1))
    share = (shrink_C.reshape(counts_C.shape) / counts_C) * _sum(values, owner_N, len(counts_C))
    return floats(values - share[owner_N])


def _sum(values: Floats, owner_N: Integers, num_clusters: int) -> Floats:
    total = np.zeros((num_clusters, *values.shape[1:]))
    np.add.at(total, owner_N, values)
    return total
