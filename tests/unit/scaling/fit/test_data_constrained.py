"""The published law of repeated data: its constants come back from losses that it made."""

import numpy as np
import pytest
from scaling_tables import planted

from sisa_scale.scaling.analysis import analyse
from sisa_scale.scaling.fit.data_constrained import PUBLISHED, DataConstrained, effective_tokens
from sisa_scale.scaling.fit.fitting import fit, parameters_of
from sisa_scale.scaling.report.results import intervals_of
from sisa_scale.scaling.table.table import RunTable, table_of

# Muennighoff et al. 2023, appendix A: log A, log B, log E, α = β, R_D*, R_N*.
A, B, E, ALPHA = np.exp(6.255414), np.exp(7.3049974), np.exp(0.6254804), 0.3526596
R_D, R_N = 15.387756, 5.309743
TRUTH = {"A": A, "B": B, "E": E, "alpha": ALPHA, "beta": ALPHA, "R_D_star": R_D, "R_N_star": R_N}
SIZES, UNIQUE, EPOCHS = (
    part.ravel() for part in np.meshgrid(np.geomspace(7e6, 9e9, 7), [1e8, 4e8, 1.5e9, 1e10], [1.0, 4.0, 16.0, 64.0])
)


def paper_loss(params: np.ndarray, unique: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    """Equation 17, with the size that the unique tokens are best spent on by its G."""
    G = (A / B) ** (1 / (2 * ALPHA))
    base = np.minimum(G**2 * unique, params)
    size = base + base * R_N * (1 - np.exp(-(params / base - 1) / R_N))
    tokens = unique + unique * R_D * (1 - np.exp(-(epochs - 1) / R_D))
    return E + A / size**ALPHA + B / tokens**ALPHA


def world(noise: float = 0.0, keep: np.ndarray | None = None) -> RunTable:
    losses = paper_loss(SIZES, UNIQUE, EPOCHS) * np.exp(noise * np.random.default_rng(0).normal(size=len(SIZES)))
    table = table_of(SIZES, UNIQUE * EPOCHS, losses, tokens_unique=UNIQUE)
    return table if keep is None else table.select(keep)


def test_the_published_constants() -> None:
    assert pytest.approx({"R_D_star": R_D, "R_N_star": R_N}) == PUBLISHED
    assert effective_tokens(np.array([4e9, 1e15]), np.array([1e9, 1e9])) == pytest.approx(
        [3.7257e9, 16.3878e9], rel=1e-4
    )
    law = DataConstrained(SIZES, UNIQUE * EPOCHS, UNIQUE)
    cx, cy = law._centres
    theta = np.array(
        [[np.log(A) - ALPHA * cx, ALPHA, np.log(B) - ALPHA * cy, ALPHA, np.log(E), np.log(R_D), np.log(R_N)]]
    )
    assert np.exp(law.evaluate(theta)[0][0]) == pytest.approx(paper_loss(SIZES, UNIQUE, EPOCHS), rel=1e-12)
    best = law._log_best_size(*(theta[:, i, None] for i in range(4)))[0]
    assert np.exp(best[0]) == pytest.approx(0.051 * UNIQUE, rel=1e-3)  # the paper's U_N


def test_recovers_all_seven() -> None:
    assert parameters_of(fit(world(), "data-constrained")) == pytest.approx(TRUTH, rel=1e-6)


def test_intervals_hold_the_constants() -> None:
    found = analyse(world(0.003), "data-constrained", num_resamples=200)
    intervals = intervals_of(found.fit, found.draws_or_refuse)
    for name in ("alpha", "beta", "R_D_star", "R_N_star"):
        low, high = intervals[name]
        assert low < TRUTH[name] < high
    assert intervals["R_D_star"][1] < 1.5 * R_D


def test_constants_that_nothing_shows_stay_published() -> None:
    """Without a repetition nothing is known of R_D*; without parameters in excess nothing of R_N*."""
    fresh = fit(world(0.001, EPOCHS == 1), "data-constrained")
    assert set(fresh.published) >= {"R_N_star"} and "R_D_star" not in fresh.published
    small = fit(world(0.001, SIZES < 0.05 * UNIQUE), "data-constrained")
    assert "R_D_star" in small.published and "R_N_star" not in small.published
    (notice,) = [notice for notice in small.notices if notice.code == "held-constants"]
    assert "R_N_star = 5.31, as published" in notice.text


def test_parameters_in_excess_may_count_fully() -> None:
    """Chinchilla's own law has no loss by excess: the published constant would be wrong there, and is not taken."""
    base = planted(0.003)
    fresh = table_of(base.params, base.tokens, base.losses, tokens_unique=base.tokens)
    found = fit(fresh, "data-constrained")
    (notice,) = [notice for notice in found.notices if notice.code == "held-constants"]
    assert "R_N_star = infinite, parameters in excess count fully" in notice.text
    assert found.law_of["all"] == pytest.approx(fit(base).law_of["all"], rel=1e-4)
