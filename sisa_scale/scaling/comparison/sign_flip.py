"""Does a larger law describe the runs better than chance? A test that takes trunks, not points, as independent.

The score of the added parameters at the optimum of the smaller law is a sum over clusters. If the smaller law is true,
each cluster's part is as likely with the other sign; the p-value is the share of sign flips with a score as large
(Hemerik, Goeman & Finos 2020). Every flip's score is divided by its own variance under the fitted law (De Santis et
al. 2022), without which few clusters reject too often. Shapes: see `arrays`; C cluster, F flip, M tested direction.
"""

import numpy as np

from sisa_scale.scaling.fit.arrays import Floats, floats
from sisa_scale.scaling.fit.fitting import Fit
from sisa_scale.scaling.fit.forms import bind
from sisa_scale.scaling.fit.terms import SumOfPowers
from sisa_scale.scaling.table.table import RunTable

MIN_CLUSTERS = 8
_NUM_FLIPS = 2000
_ENUMERATED = 12  # clusters whose flips are all tried
_RATIOS = (0.0, *np.geomspace(0.03, 300, 17))  # variance between clusters over variance within


def flip_p_value(smaller: Fit, form: str, table: RunTable, seed: int = 0) -> float | None:
    """Return the p-value of a least-squares fit against a larger form of the same points.

    None with fewer than MIN_CLUSTERS clusters: the least p-value would be above 0.01.
    """
    _, owner_N = np.unique(table.cluster_N, return_inverse=True)
    owner_N = owner_N.ravel()
    num_clusters = int(owner_N.max()) + 1
    if num_clusters < MIN_CLUSTERS:
        return None
    member_CN = (np.arange(num_clusters)[:, None] == owner_N).astype(np.float64)
    known_NP, every_NP = _derivatives(smaller, form, table)
    whiten_NN = _whitening(smaller.residual_N, _basis(known_NP), member_CN)
    nuisance_NP = _basis(whiten_NN @ known_NP)
    residual_N = _without(nuisance_NP, whiten_NN @ smaller.residual_N)
    tested_NM = _basis(_without(nuisance_NP, whiten_NN @ every_NP), every_NP.shape[1] - known_NP.shape[1])
    score_CM = member_CN @ (tested_NM * residual_N[:, None])
    overlap_CMP = np.einsum("cn,nm,np->cmp", member_CN, tested_NM, nuisance_NP)
    sign_FC = flips(num_clusters, seed)
    score_FM = sign_FC @ score_CM
    overlap_FMP = np.einsum("fc,cmp->fmp", sign_FC, overlap_CMP)
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


def _derivatives(smaller: Fit, form: str, table: RunTable) -> tuple[Floats, Floats]:
    """Return the derivatives of log losses by the parameters of the smaller and of the larger law [N, P]."""
    larger, law = bind(form, table).law, smaller.form.law
    assert isinstance(law, SumOfPowers) and isinstance(larger, SumOfPowers)
    theta_1P, numbers = smaller.theta_P[None], range(len(law.terms))
    coefficients = [law.coefficients(theta_1P, i) for i in numbers]
    same_1P = larger.theta(coefficients, [law.exponents(theta_1P, i) for i in numbers])
    return floats(law.evaluate(theta_1P)[1][0].T), floats(larger.evaluate(same_1P)[1][0].T)


def _whitening(residual_N: Floats, nuisance_NP: Floats, member_CN: Floats) -> Floats:
    """Return the matrix [N, N] that makes noise of runs plus noise of clusters even, by restricted likelihood."""
    size_C = member_CN.sum(1)
    best, best_cost = np.eye(len(residual_N)), np.inf
    for ratio in _RATIOS:
        shrink_C = (1 - 1 / np.sqrt(1 + size_C * ratio)) / size_C
        whiten_NN = np.eye(len(residual_N)) - (member_CN.T * shrink_C) @ member_CN
        white_NP = whiten_NN @ nuisance_NP
        rest_N = _without(_basis(white_NP), whiten_NN @ residual_N)
        degrees = len(residual_N) - nuisance_NP.shape[1]
        cost = np.log1p(size_C * ratio).sum() + np.linalg.slogdet(white_NP.T @ white_NP)[1]
        cost += degrees * np.log(max(float(rest_N @ rest_N), 1e-300))
        if cost < best_cost:
            best, best_cost = whiten_NN, cost
    return best


def _without(basis_NP: Floats, columns: Floats) -> Floats:
    return floats(columns - basis_NP @ (basis_NP.T @ columns))


def _basis(columns_NP: Floats, most: int | None = None) -> Floats:
    """Return an orthonormal basis of the columns, the greatest directions first."""
    left, singular, _ = np.linalg.svd(columns_NP, full_matrices=False)
    return floats(left[:, :most][:, singular[:most] > 1e-9 * singular[0]])
