"""Two equal laws whose trunks share an error are not told apart; two different ones are."""

from dataclasses import replace

import numpy as np
import pytest
from scaling_tables import LAW

from sisa_scale.scaling.allocation.frontier import predict
from sisa_scale.scaling.comparison.nested_models import compare_nested
from sisa_scale.scaling.comparison.sign_flip import flip_p_value
from sisa_scale.scaling.fit.fitting import Fit, fit
from sisa_scale.scaling.fit.objectives import Objective
from sisa_scale.scaling.fit.sign_flip import MIN_CLUSTERS, flips
from sisa_scale.scaling.table.table import ONLY, RunTable, table_of


def world(seed: int, num_trunks: int = 4, counts_as: float = 1.0, of_trunk: float = 0.004) -> RunTable:
    """Two architectures of `num_trunks` trunks, four points each; the parameters of one count `counts_as` times."""
    generator = np.random.default_rng(seed)
    params = np.repeat(np.tile(np.geomspace(2e7, 5e8, num_trunks), 2), 4)
    tokens = np.tile(2e9 * 2.0 ** np.arange(4), 2 * num_trunks)
    trunk = np.repeat(np.arange(2 * num_trunks), 4)
    is_second = trunk >= num_trunks
    errors = of_trunk * generator.normal(size=2 * num_trunks)[trunk] + 0.001 * generator.normal(size=len(trunk))
    losses = predict(LAW, params * np.where(is_second, counts_as, 1.0), tokens) * np.exp(errors)
    return table_of(params, tokens, losses, architecture=np.where(is_second, "s", "t"), cluster=trunk)


def pooled_fit(table: RunTable, start: Fit | None = None) -> Fit:
    pooled = replace(table, architecture_N=np.full(len(table), ONLY))
    return fit(pooled, "chinchilla", Objective("squares"), None if start is None else start.theta_P[None])


def test_equal_laws_are_rejected_no_more_often_than_promised() -> None:
    start, p_values = pooled_fit(world(0)), []
    for seed in range(100):
        table = world(seed)
        p_values.append(flip_p_value(pooled_fit(table, start), "shared", table))
    shares = np.mean(np.array(p_values)[:, None] < [0.05, 0.2, 0.5], axis=0)
    assert shares[0] <= 0.09  # 5 % and twice the standard error of 100 worlds
    assert 0.1 <= shares[1] <= 0.3
    assert 0.36 <= shares[2] <= 0.64


def test_different_laws_are_told_apart() -> None:
    table = world(1, num_trunks=8, counts_as=1.4)
    assert flip_p_value(pooled_fit(table), "shared", table) < 0.01


def test_points_are_not_taken_for_trunks() -> None:
    """The same losses, each point its own cluster: what trunks share looks like a difference."""
    start, smaller = pooled_fit(world(0)), 0
    for seed in range(12):
        table = world(seed, of_trunk=0.01)
        result = pooled_fit(table, start)
        apart = replace(table, cluster_N=np.arange(len(table)))
        smaller += flip_p_value(result, "shared", apart) < flip_p_value(result, "shared", table)
    assert smaller >= 9


def test_too_few_trunks_have_no_p_value() -> None:
    table = world(0, num_trunks=3)
    assert MIN_CLUSTERS > 2 * 3
    assert flip_p_value(pooled_fit(table), "shared", table) is None


def test_the_table_of_models_takes_trunks_as_one() -> None:
    rows = {row.form: row for row in compare_nested(world(0))}
    assert rows["chinchilla"].p_value is None
    assert rows["shared"].p_value > 0.05
    assert {row.aicc for row in rows.values()} == {None}


@pytest.mark.parametrize("num_clusters", [8, 12, 30])
def test_flips(num_clusters: int) -> None:
    sign_FC = flips(num_clusters, seed=0)
    assert (sign_FC[0] == 1).all()
    assert set(np.unique(sign_FC)) == {-1.0, 1.0}
    if num_clusters <= 12:
        both = np.concatenate([sign_FC, -sign_FC])
        assert len(np.unique(both, axis=0)) == 2**num_clusters
