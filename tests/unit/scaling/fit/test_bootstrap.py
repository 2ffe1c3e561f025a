"""Lost resamples and few clusters make intervals wider, never narrower."""

from dataclasses import replace

import numpy as np
import pytest
from scaling_tables import planted

from sisa_scale.scaling.fit.bootstrap import Draws, bca, bootstrap, expanded, percentile
from sisa_scale.scaling.fit.fitting import fit
from sisa_scale.scaling.table.notices import RefusalError
from sisa_scale.scaling.table.table import clusters_of, table_of

VALUES = np.random.default_rng(0).normal(size=1000)


def test_percentiles_without_lost_values_are_the_usual_ones() -> None:
    assert percentile(VALUES, 0.9) == pytest.approx(np.percentile(VALUES, [5, 95]))


def test_lost_values_count_at_both_ends() -> None:
    some = VALUES.copy()
    some[np.argsort(VALUES)[:10]] = np.nan  # the least are lost, as resamples with a small exponent are
    low, high = percentile(some)
    whole = percentile(VALUES)
    assert low == pytest.approx(whole[0])
    assert high > whole[1]
    some[np.argsort(VALUES)[:30]] = np.nan
    assert percentile(some) is None


def test_few_clusters_expand_the_percentiles() -> None:
    assert expanded(0.95, 4) == pytest.approx(1 - 2 * 0.000119, abs=2e-6)  # Φ(−√(4/3) t) with t = 3.182
    assert expanded(0.95, 10_000) == pytest.approx(0.95, abs=1e-4)
    narrow, wide = percentile(VALUES), percentile(VALUES, 0.95, expanded(0.95, 5))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert percentile(VALUES, 0.95, 1.0) == [VALUES.min(), VALUES.max()]


def test_intervals_of_a_fit_know_their_clusters() -> None:
    draws = bootstrap(fit(planted(0.003)), 200)
    assert draws.num_clusters == 25
    values = draws.laws_BK5[:, 0, 3]
    assert draws.interval(values) == percentile(values, 0.95, expanded(0.95, 25))


def test_clusters_are_counted_for_each_architecture() -> None:
    table = table_of(
        np.ones(9), np.ones(9), np.ones(9), architecture=[*"aaaabbbbb"], cluster=[1, 1, 2, 2, 3, 3, 4, 5, 5]
    )
    assert clusters_of(table) == {"a": 2, "b": 3}


# Seven sizes at 5, 10, 20, 40 and 80 tokens for each of all parameters; the table counts those outside embeddings.
SHAPES = np.array([(128, 4), (192, 5), (256, 6), (384, 8), (512, 10), (768, 14), (1024, 18)])  # width, depth
LOSSES = [
    7.3989,
    6.5792,
    5.9511,
    5.4711,
    5.1016,
    6.4709,
    5.8078,
    5.2861,
    4.8881,
    4.5708,
    5.8714,
    5.2773,
    4.8308,
    4.4886,
    4.2224,
    5.0177,
    4.5837,
    4.2242,
    3.9422,
    3.7234,
    4.4637,
    4.1002,
    3.8100,
    3.5806,
    3.4004,
    3.7511,
    3.4661,
    3.2620,
    3.1015,
    2.9621,
    3.3197,
    3.1081,
    2.9454,
    2.8075,
    2.7119,
]


def test_bca_is_expanded_for_few_clusters_as_percentiles_are() -> None:
    values = np.linspace(-1.0, 1.0, 4001)
    draws = Draws(np.zeros((4001, 1)), values[:, None], None, np.ones(4001, dtype=bool), num_clusters=5)
    without = np.array([-0.1, -0.05, 0.0, 0.05, 0.1])  # no skew, so nothing is corrected
    assert draws.bca(values, 0.0, without) == pytest.approx(draws.interval(values), abs=1e-3)
    assert draws.bca(values, 0.0, without)[1] > bca(values, 0.0, without)[1] + 0.04
    assert replace(draws, num_clusters=1).bca(values, 0.0, without) is None


def test_a_law_whose_resamples_are_lost_to_one_side_is_refused() -> None:
    counted = 12 * SHAPES[:, 0] ** 2 * SHAPES[:, 1]
    tokens = np.repeat(counted + 50304 * SHAPES[:, 0], 5) * np.tile(5 * 2.0 ** np.arange(5), 7)
    with pytest.raises(RefusalError, match=r"edge of sense, in \d+\.\d% of the resamples; at most 5%") as caught:
        bootstrap(fit(table_of(np.repeat(counted, 5), tokens, LOSSES)), 200)
    assert caught.value.code == "not-identified"
