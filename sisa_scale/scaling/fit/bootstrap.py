"""Bootstrap of a fit: clusters (trunks) are drawn with replacement, within each architecture, and the law is refitted.

Resamples are weights, and all are refitted at once from the optimum of the table. A resample without a sensible law is
lost, and lost ones are not like the others: they count at both ends of every interval. Percentiles of few clusters are
too narrow, so they are expanded (Hesterberg 2015, "What teachers should know about the bootstrap").
"""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np

from sisa_scale.scaling.fit.arrays import Booleans, Floats
from sisa_scale.scaling.fit.fitting import Fit
from sisa_scale.scaling.fit.solver import minimise
from sisa_scale.scaling.fit.student import quantile
from sisa_scale.scaling.table.identifiability import Identifiability
from sisa_scale.scaling.table.notices import Notice, refusal
from sisa_scale.scaling.table.table import RunTable, clusters_of

NUM_RESAMPLES = 4000
LEVEL = 0.95
_SENSIBLE = (0.005, 3.0)  # exponents outside are at the edge of what a law can mean
_MAX_LOST, _TOO_MANY_LOST = 0.01, 0.05
_MAX_MISMATCH = 3.0
_FEWEST = 20  # finite values that make an interval


@dataclass(frozen=True, slots=True)
class Draws:
    """Refitted laws. is_good_B: rows that converged with exponents in a sensible range; the others' laws are NaN.

    num_clusters: of the architecture with the fewest.
    """

    theta_BP: Floats
    published_BQ: Floats
    laws_BK5: Floats | None
    is_good_B: Booleans
    num_clusters: int

    @property
    def lost(self) -> float:
        """Share of the resamples that do not count."""
        return float(1 - self.is_good_B.mean())

    def interval(self, values_B: Floats, level: float = LEVEL) -> list[float] | None:
        """Return the interval of a number that every resample has (NaN for a lost one), expanded for few clusters.

        None where it is open, and where one cluster alone shows no spread.
        """
        if self.num_clusters < 2:
            return None
        return percentile(values_B, level, expanded(level, self.num_clusters))

    def bca(self, values_B: Floats, estimate: float, without_C: Floats, level: float = LEVEL) -> list[float] | None:
        """Return the bias-corrected accelerated interval, expanded in the same way; see `bca`."""
        if self.num_clusters < 2:
            return None
        return bca(values_B, estimate, without_C, level, expanded(level, self.num_clusters))


def cluster_weights(table: RunTable, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Floats:
    """Return how often every point counts in every resample [B, N]; clusters are drawn within each architecture.

    A cluster that spans architectures makes all of them one stratum, so that pairs stay together.
    """
    generator = np.random.default_rng(seed)
    weight_BN = np.zeros((num_resamples, len(table)))
    names = table.architecture_N
    spanning = any(len(set(names[table.cluster_N == one].tolist())) > 1 for one in np.unique(table.cluster_N))
    for name in [None] if spanning else table.architectures:
        rows = np.arange(len(table)) if name is None else np.flatnonzero(names == name)
        _, owner = np.unique(table.cluster_N[rows], return_inverse=True)
        count = int(owner.max()) + 1
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=num_resamples)
        weight_BN[:, rows] = drawn[:, owner.ravel()]
    return weight_BN


def refit(result: Fit, weight_BN: Floats) -> Draws:
    """Refit the law with every row of weights, from the optimum of the table."""
    start_BP = np.tile(result.theta_P, (len(weight_BN), 1))
    form = result.form
    found = minimise(form.law, result.table.losses, start_BP, result.objective, weight_BN=weight_BN, tolerance=1e-10)
    published_BQ = form.publish(found.theta_BP)
    laws_BK5 = None if form.laws is None else form.laws(found.theta_BP)
    is_good_B = found.is_converged_B & np.isfinite(published_BQ).all(1)
    if laws_BK5 is not None:
        powers = laws_BK5[:, :, 3:]
        is_good_B &= ((powers > _SENSIBLE[0]) & (powers < _SENSIBLE[1])).all((1, 2))
        laws_BK5 = np.where(is_good_B[:, None, None], laws_BK5, np.nan)
    published_BQ = np.where(is_good_B[:, None], published_BQ, np.nan)
    return Draws(found.theta_BP, published_BQ, laws_BK5, is_good_B, min(clusters_of(result.table).values()))


def bootstrap(result: Fit, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Draws:
    """Return refitted laws of `num_resamples` cluster resamples.

    Raises RefusalError where over 5 % have none: intervals of the others would be narrow and wrong. A form of another
    shape than Chinchilla's keeps its estimate; its intervals are open.
    """
    draws = refit(result, cluster_weights(result.table, num_resamples, seed))
    if result.form.laws is not None and draws.lost > _TOO_MANY_LOST:
        raise refusal(
            "not-identified",
            result.table.path,
            found=f"no optimum, or exponents at the edge of sense, in {draws.lost:.1%} of the resamples",
            allowed=f"at most {_TOO_MANY_LOST:.0%}: the law hangs on single trunks, and an interval of the others "
            "would be narrow and wrong",
            remedy="Add trunks: more sizes, longer runs, or more seeds of each.",
        )
    return draws


def jackknife(result: Fit) -> Draws:
    """Return the laws refitted without each cluster in turn, in the order of np.unique(cluster_N)."""
    clusters = np.unique(result.table.cluster_N)
    return refit(result, (result.table.cluster_N != clusters[:, None]).astype(np.float64))


def expanded(level: float, num_clusters: int) -> float:
    """Return the level at which percentiles of few clusters hold `level`.

    A bootstrap's variance is too small by (n−1)/n, and its tails are normal where Student's t is right.
    """
    reach = sqrt(num_clusters / (num_clusters - 1)) * quantile(level, num_clusters - 1)
    return 2 * NormalDist().cdf(reach) - 1


def percentile(values_B: Floats, level: float = LEVEL, expanded_level: float | None = None) -> list[float] | None:
    """Return the central interval. Values that are not finite may lie at either end; None where they leave it open.

    expanded_level: take the ends there, and not beyond the values that there are.
    """
    finite = np.sort(values_B[np.isfinite(values_B)])
    last, lost = len(values_B) - 1, len(values_B) - len(finite)
    if len(finite) < _FEWEST or lost > last * (1 - level) / 2:
        return None
    position = max(last * (1 - (expanded_level or level)) / 2 - lost, 0.0)
    ends = np.interp([position, len(finite) - 1 - position], np.arange(len(finite)), finite)
    return [float(end) for end in ends]


def bca(
    values_B: Floats, estimate: float, without_C: Floats, level: float = LEVEL, expanded_level: float | None = None
) -> list[float] | None:
    """Return the bias-corrected accelerated interval; `without_C` are the values without each cluster.

    expanded_level: correct the percentiles of this level, as `percentile` takes them there.
    """
    finite = np.sort(values_B[np.isfinite(values_B)])
    last, lost = len(values_B) - 1, len(values_B) - len(finite)
    if percentile(values_B, level) is None or not np.isfinite(without_C).all():
        return None
    normal = NormalDist()
    below = float(np.clip(np.mean(finite < estimate), 1 / len(finite), 1 - 1 / len(finite)))
    bias = normal.inv_cdf(below)
    influence = without_C.mean() - without_C
    power = float((influence**2).sum()) ** 1.5
    acceleration = float((influence**3).sum()) / (6 * power) if power > 0 else 0.0
    ends, wide = [], expanded_level or level
    for tail in ((1 - wide) / 2, (1 + wide) / 2):
        shifted = bias + normal.inv_cdf(tail)
        ends.append(normal.cdf(bias + shifted / (1 - acceleration * shifted)))
    # Lost resamples count at both ends here too.
    positions = np.clip([ends[0] * last - lost, ends[1] * last], 0, len(finite) - 1)
    return [float(end) for end in np.interp(positions, np.arange(len(finite)), finite)]


def a_of(laws: Floats) -> Floats:
    """Return a = β/(α+β), the exponent of the optimal parameters over compute, from (..., 5)."""
    value: Floats = laws[..., 4] / (laws[..., 3] + laws[..., 4])
    return value


def judge(draws: Draws, found: Identifiability) -> list[Notice]:
    """Return warnings about the resamples: lost ones, and a spread far from what the curvature predicts."""
    notices = []
    if draws.lost > _MAX_LOST:
        notices.append(Notice("resamples-lost", f"{draws.lost:.1%} of the resamples"))
    if draws.laws_BK5 is not None and found.error_of_a and draws.is_good_B.any():
        seen = float(np.std(a_of(draws.laws_BK5[draws.is_good_B, 0])))
        if found.noise > 1e-9 and not 1 / _MAX_MISMATCH < seen / found.error_of_a < _MAX_MISMATCH:
            text = f"β/(α+β) varies by {seen:.2g} over the resamples, the curvature says {found.error_of_a:.2g}"
            notices.append(Notice("rough-interval", text))
        share = np.divide(*np.percentile(draws.laws_BK5[draws.is_good_B, 0, 2], [2.5, 50]))
        if share < 0.1:
            notices.append(Notice("irreducible-loss", "the interval of E reaches to zero"))
    return notices
