"""Planted optima: what the sweep's parabola finds, how often its interval holds, and what it refuses."""

import math

import numpy as np
import pytest

from sisa_scale.errors import ConfigError
from sisa_scale.scaling.learning_rate import Optimum, find_optimum

RATES = [5e-4, 1e-3, 2e-3, 4e-3, 8e-3]


def world(seed: int, best: float, *, rates: list[float], num_seeds: int, noise: float, skew: float = 0.0) -> Optimum:
    """Return the optimum found for losses 2.6 + 0.15 z² + skew z³, with an offset of each seed that is no noise."""
    generator = np.random.default_rng(seed)
    rate_N, seed_N = np.repeat(rates, num_seeds), np.tile(range(num_seeds), len(rates))
    z = np.log(rate_N / best)
    losses = 2.6 + 0.15 * z**2 + skew * z**3 + 0.05 * generator.normal(size=num_seeds)[seed_N]
    losses += noise * generator.normal(size=len(z))
    return find_optimum(rate_N.tolist(), losses.tolist(), seed_N.tolist(), "here", "key")


def test_exact_parabola_is_found_without_error() -> None:
    found = world(0, 1.7e-3, rates=RATES, num_seeds=2, noise=0.0)
    assert found.rate == pytest.approx(1.7e-3, rel=1e-9)
    assert found.interval == pytest.approx([1.7e-3, 1.7e-3], rel=1e-6)
    assert found.coefficients[2] == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("rates", "num_seeds", "skew"), [(RATES, 1, 0.0), (RATES[1:], 1, 0.03), (RATES, 3, 0.03), (RATES[1:], 3, 0.03)]
)
def test_interval_holds_the_planted_optimum(rates: list[float], num_seeds: int, skew: float) -> None:
    holds = []
    for seed in range(200):
        best = float(np.exp(np.random.default_rng(seed).uniform(math.log(1.8e-3), math.log(2.6e-3))))
        found = world(1000 + seed, best, rates=rates, num_seeds=num_seeds, noise=0.007, skew=skew)
        holds.append(found.interval is None or found.interval[0] <= best <= found.interval[1])
    assert np.mean(holds) >= 0.9


def test_three_rates_have_no_interval() -> None:
    # The losses of a Transformer of docs/results-cpu-study.md at 1.5e-3, 3e-3 and 6e-3.
    found = find_optimum([6e-3, 1.5e-3, 3e-3], [2.727, 2.753, 2.657], [0, 0, 0], "here", "key")
    assert found.rate == pytest.approx(3.17e-3, rel=0.01)
    assert (found.interval, found.degrees, found.noise) == (None, 0, None)
    assert "the interval is unknown" in found.notes[0]
    seeds = find_optimum([1.5e-3, 3e-3, 6e-3] * 3, [2.75, 2.65, 2.73] * 3, [0] * 3 + [1] * 3 + [2] * 3, "here", "key")
    assert (seeds.interval, seeds.degrees) == (None, 4)
    assert found.text == "0.00317 (interval unknown)"


def test_noise_alone_gives_no_interval_instead_of_a_narrow_one() -> None:
    losses = [2.7, 2.62, 2.6, 2.69, 2.61]
    found = find_optimum(RATES, losses, [0] * 5, "here", "key")
    assert found.interval is None
    assert "too flat" in found.notes[-1]


@pytest.mark.parametrize(
    ("losses", "way", "rates"),
    [
        ([2.5, 2.6, 2.8, 3.0, 3.3], "lower", "0.000125, 0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008"),
        ([3.0, 2.9, 2.8, 2.7, 2.6], "higher", "0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032"),
        ([3.0, 2.9, 2.8, math.inf, math.nan], "between it and the lowest", "0.002, 0.00252, 0.00317, 0.004"),
        ([3.0, 2.9, math.inf, math.inf, math.inf], "a parabola needs 3 rates", "0.000125, 0.00025, 0.0005"),
    ],
)
def test_an_optimum_at_the_edge_says_which_way_to_widen(losses: list[float], way: str, rates: str) -> None:
    with pytest.raises(ConfigError) as error:
        find_optimum(RATES, losses, [0] * 5, "here", "architectures.sisa.learning_rate_sweep")
    assert way in str(error.value)
    assert rates in str(error.value)
    assert "'architectures.sisa.learning_rate_sweep=[" in str(error.value)


def test_a_diverged_rate_is_left_out_and_said() -> None:
    found = find_optimum(RATES, [2.8, 2.65, 2.6, 2.7, math.inf], [0] * 5, "here", "key")
    assert found.fitted == (5e-4, 1e-3, 2e-3, 4e-3)
    assert found.notes[0] == "diverged, and left out of the fit: 0.008"
    one_seed = find_optimum([*RATES, *RATES], [2.8, 2.65, 2.6, 2.7, 3.0, 2.81, 2.66, 2.6, 2.72, math.nan],
                            [0] * 5 + [1] * 5, "here", "key")  # fmt: skip
    assert 8e-3 not in one_seed.fitted


def test_losses_that_are_no_parabola_are_fitted_beside_their_best() -> None:
    found = find_optimum(RATES, [2.4, 2.6, 2.39, 2.6, 2.4], [0] * 5, "here", "key")
    assert found.fitted == (1e-3, 2e-3, 4e-3)
    assert "no parabola" in found.notes[0]
    assert 1e-3 < found.rate < 4e-3


def test_rates_far_from_the_best_do_not_bend_the_parabola() -> None:
    rates = [1e-4, *RATES, 4e-2]
    z = np.log(np.array(rates) / 2e-3)
    losses = np.where(np.abs(z) > 2, 5.0, 2.6 + 0.1 * z**2).tolist()
    assert find_optimum(rates, losses, [0] * 7, "here", "key").rate == pytest.approx(2e-3)
