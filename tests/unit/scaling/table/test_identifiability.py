"""Never a confident wrong number: gates, and what intervals cover."""

import numpy as np
import pytest
from scaling_tables import LAW, planted, planted_pair

from sisa_scale.scaling.allocation.frontier import predict
from sisa_scale.scaling.fit.bootstrap import a_of, bootstrap, cluster_weights, percentile
from sisa_scale.scaling.fit.fitting import fit
from sisa_scale.scaling.table.identifiability import examine, require
from sisa_scale.scaling.table.notices import RefusalError
from sisa_scale.scaling.table.table import RunTable, table_of

A_TRUE = LAW[4] / (LAW[3] + LAW[4])


@pytest.mark.parametrize("noise", [0.0, 0.002, 0.01])
@pytest.mark.parametrize("law", [LAW, np.array([406.4, 410.7, 1.69, 0.34, 0.28])])
@pytest.mark.parametrize("jitter", [0.0, 0.05])
def test_fixed_tokens_per_parameter_is_refused(noise: float, law: np.ndarray, jitter: float) -> None:
    generator = np.random.default_rng(4)
    params = np.repeat(np.geomspace(2e7, 1e9, 8), 3)
    tokens = 20 * params * np.exp(jitter * generator.uniform(-1, 1, 24))
    losses = predict(law, params, tokens) * np.exp(noise * generator.normal(size=24))
    with pytest.raises(RefusalError) as caught:
        require(fit(table_of(params, tokens, losses)))
    assert caught.value.code == "fixed-tokens-per-parameter"
    assert "condition number" in str(caught.value)


def test_ratios_that_vary_but_too_little_for_the_noise_are_refused() -> None:
    generator = np.random.default_rng(4)
    params = np.repeat(np.geomspace(2e7, 1e9, 8), 3)
    tokens = 20 * params * np.exp(0.3 * generator.uniform(-1, 1, 24))
    losses = predict(LAW, params, tokens) * np.exp(0.02 * generator.normal(size=24))
    with pytest.raises(RefusalError) as caught:
        require(fit(table_of(params, tokens, losses)))
    assert caught.value.code == "not-identified"


def test_good_designs_pass() -> None:
    found = require(fit(planted(0.002)))
    assert found.condition == pytest.approx(41, abs=6)
    assert found.error_of_a is not None
    assert found.error_of_a < 0.02


def test_intervals_cover_the_truth() -> None:
    covered = {"a": 0, "alpha": 0, "E": 0}
    worlds = 100
    for seed in range(worlds):
        result = fit(planted(0.005, seed=seed))
        laws = bootstrap(result, 300, seed).laws_BK5[:, 0]
        for name, values, truth in (
            ("a", a_of(laws), A_TRUE),
            ("alpha", laws[:, 3], LAW[3]),
            ("E", laws[:, 2], LAW[2]),
        ):
            interval = percentile(values)
            covered[name] += interval is not None and interval[0] <= truth <= interval[1]
    assert all(0.90 <= count / worlds <= 1.0 for count in covered.values()), covered


def test_curvature_predicts_the_spread_over_worlds() -> None:
    found = [fit(planted(0.002, seed=seed)) for seed in range(60)]
    spread = np.std([a_of(result.laws_K5[0]) for result in found])
    predicted = np.median([examine(result).error_of_a for result in found])
    assert predicted == pytest.approx(spread, rel=0.3)


def test_clusters_are_drawn_whole_and_within_architectures() -> None:
    table = planted_pair(1.0, 1.0, cluster=np.repeat(np.arange(10), 5))
    weights = cluster_weights(table, 200, seed=1)
    assert (weights.reshape(200, 10, 5) == weights.reshape(200, 10, 5)[:, :, :1]).all()
    assert (weights[:, :25].sum(1) == 25).all()
    assert len(np.unique(weights[:, ::5], axis=0)) > 150


def test_clusters_widen_intervals() -> None:
    """Five points of one trunk that share their error carry the information of one."""
    base = planted()
    trunk = np.repeat(np.arange(5), 5)
    generator = np.random.default_rng(2)
    losses = base.losses * np.exp(0.004 * generator.normal(size=5)[trunk] + 0.001 * generator.normal(size=25))
    widths = []
    for cluster in (np.arange(25), trunk):
        result = fit(table_of(base.params, base.tokens, losses, cluster=cluster))
        draws = bootstrap(result, 500)
        widths.append(np.ptp(np.percentile(draws.laws_BK5[draws.is_good_B, 0, 2], [5, 95])))
    assert widths[1] > widths[0]


# Held-out losses of a study of 5, 16 and 50 million parameters on 8, 17 and 34 million tokens (docs/results.md).
STUDY_PARAMS = np.repeat([5.1e6, 16.0e6, 49.4e6], 3)
STUDY_TOKENS = np.tile([8388608, 16777216, 33554432], 3)
STUDY_LOSSES = {
    "transformer": [5.2208, 4.5758, 3.8429, 5.1005, 4.3624, 3.6349, 5.1312, 4.4088, 3.6313],
    "mamba3": [4.3581, 3.7678, 3.4309, 4.1414, 3.6269, 3.2940, 3.9796, 3.4828, 3.1637],
    "sisa": [5.0862, 4.2956, 3.6599, 5.1184, 4.4078, 3.6694],
}


def study_table(*names: str) -> RunTable:
    losses = np.concatenate([STUDY_LOSSES[name] for name in names])
    owners = np.concatenate([[name] * len(STUDY_LOSSES[name]) for name in names])
    params, tokens = (
        np.concatenate([x[: len(STUDY_LOSSES[name])] for name in names]) for x in (STUDY_PARAMS, STUDY_TOKENS)
    )
    clusters = [f"{name} {count:.3g}" for name, count in zip(owners, params, strict=True)]
    return table_of(params, tokens, losses, architecture=owners, cluster=clusters)


def test_an_architecture_that_size_does_not_help_is_refused() -> None:
    with pytest.raises(RefusalError, match="do not depend on parameters, or on tokens") as caught:
        require(fit(study_table("transformer", "mamba3", "sisa"), "shared"))
    assert caught.value.code == "not-identified"


def test_a_law_that_most_resamples_lose_is_refused() -> None:
    result = fit(study_table("transformer", "mamba3"), "shared")
    require(result)
    with pytest.raises(RefusalError, match="of the resamples") as caught:
        bootstrap(result)
    assert caught.value.code == "not-identified"
