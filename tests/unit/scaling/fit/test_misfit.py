"""A law that misses a trend is warned of, one that is right is not, whatever trunks have in common."""

from dataclasses import replace

import numpy as np
from scaling_tables import LAW, planted

from sisa_scale.scaling.allocation.frontier import predict
from sisa_scale.scaling.fit.fitting import Fit, fit
from sisa_scale.scaling.fit.misfit import FALSE_ALARMS, misfit, trends
from sisa_scale.scaling.table.table import RunTable, table_of


def world(seed: int, num_trunks: int = 10, overtrained: float = 0.0) -> RunTable:
    """Trunks of four points with an error in common; losses rise by the square of the decades above 20 tokens each."""
    generator = np.random.default_rng(seed)
    params, trunk = np.repeat(np.geomspace(2e7, 5e8, num_trunks), 4), np.repeat(np.arange(num_trunks), 4)
    tokens = np.tile(2e9 * 2.0 ** np.arange(4), num_trunks)
    errors = 0.004 * generator.normal(size=num_trunks)[trunk] + 0.001 * generator.normal(size=len(trunk))
    errors += overtrained * np.maximum(np.log10(tokens / params / 20), 0) ** 2
    return table_of(params, tokens, predict(LAW, params, tokens) * np.exp(errors), cluster=trunk)


def test_few_false_alarms() -> None:
    found: list[float] = []
    start: Fit | None = None
    for seed in range(60):
        start = fit(world(seed), starts_BP=None if start is None else start.theta_P[None])
        found.append(min(trend.p_value or 1.0 for trend in trends(start)))
    assert np.mean(np.array(found) < FALSE_ALARMS / 2) <= 0.10  # 5 % and almost twice the standard error of 60 worlds
    assert np.mean(np.array(found) < 0.5) > 0.3  # p-values, not ones


def test_a_wrong_form_is_named_with_its_trend() -> None:
    notices = misfit(fit(world(0, overtrained=0.02)))
    assert {notice.code for notice in notices} == {"misfit"}
    assert "residuals follow tokens per parameter (p = " in notices[0].text
    trend = trends(fit(world(0, overtrained=0.02)))[0]
    assert trend.thirds[2] > trend.thirds[1]


def test_few_clusters_have_no_test() -> None:
    assert [trend.p_value for trend in trends(fit(world(0, num_trunks=7)))] == [None, None]
    base = planted(0.003)
    assert misfit(fit(replace(base, cluster_N=np.arange(len(base)) % 5))) == []
