"""A planted efficiency comes back; what was not measured is not claimed."""

import numpy as np
import pytest
from scaling_tables import LAW, planted_pair, table_of

from sisa_scale.scaling.allocation.efficiency import efficiencies, frontier_ratio, multiplier_curve, multipliers
from sisa_scale.scaling.allocation.frontier import Cost, allocate, fit_cost, predict, reach, tokens_for
from sisa_scale.scaling.allocation.optimal import extrapolation
from sisa_scale.scaling.comparison.compare import compare, default_losses, unclaimed, verdicts_of
from sisa_scale.scaling.fit.bootstrap import bootstrap
from sisa_scale.scaling.fit.fitting import fit
from sisa_scale.scaling.table.notices import RefusalError


def test_planted_efficiency_without_noise() -> None:
    found = compare(planted_pair(1.38, 1.1), "base", num_resamples=200)
    rho = {row.architecture: row for row in found.efficiencies}
    assert rho["better"].rho_N == pytest.approx(1.38, rel=1e-4)
    assert rho["better"].rho_D == pytest.approx(1.1, rel=1e-4)
    assert (rho["base"].rho_N, rho["base"].rho_D_interval) == (1.0, [1.0, 1.0])
    flops = [row for row in found.multipliers if row.cost == "flops"]
    # Parameters and tokens that count more are compute that counts more, by their product.
    assert [row.multiplier for row in flops] == pytest.approx([1.38 * 1.1] * 3, rel=1e-3)


def test_planted_efficiency_with_noise_lies_in_its_interval() -> None:
    inside = {"rho_N": 0, "rho_D": 0, "flops": 0, "tokens": 0}
    worlds = 30
    for seed in range(worlds):
        table = planted_pair(1.3, 1.1, noise=0.004, seed=seed)
        result = fit(table, "shared")
        draws = bootstrap(result, 300, seed)
        better = efficiencies(result, draws, "base")[1]
        inside["rho_N"] += better.rho_N_interval[0] <= 1.3 <= better.rho_N_interval[1]
        inside["rho_D"] += better.rho_D_interval[0] <= 1.1 <= better.rho_D_interval[1]
        _, best = reach(LAW, 2.6, Cost())
        better_law = LAW * [1.3 ** -LAW[3], 1.1 ** -LAW[4], 1, 1, 1]
        truth = {"flops": 1.3 * 1.1, "tokens": float(best.tokens / tokens_for(better_law, 2.6, best.params))}
        for row in multipliers(result, draws, "base", np.array([2.6]), ["flops", "tokens"]):
            inside[row.cost] += row.interval[0] <= truth[row.cost] <= row.interval[1]
    assert all(count >= 0.83 * worlds for count in inside.values()), inside


def test_an_architecture_against_itself_is_one() -> None:
    found = compare(planted_pair(1.3, 1.1, noise=0.004), "base", num_resamples=200)
    losses = default_losses(found.fit.table, "base")
    own = found.fit.table.architectures
    assert own == ["base", "better"]
    from sisa_scale.scaling.allocation.efficiency import _ratio

    laws = found.draws.laws_BK5
    for unit in ("flops", "tokens"):
        values = _ratio(laws, 0, 0, Cost(), Cost(), unit, float(losses[1]))
        assert (values == 1).all()


def test_seconds_and_flops_stand_side_by_side() -> None:
    table = planted_pair(1.3, 1.1)
    seconds = table.flops / 1e14 * np.where(table.architecture_N == "better", 2.0, 1.0)
    timed = planted_pair(1.3, 1.1, seconds=seconds)
    found = compare(timed, "base", num_resamples=200)
    rows = {(row.cost, row.loss): row.multiplier for row in found.multipliers}
    for (cost, loss), value in rows.items():
        if cost == "seconds":
            assert value == pytest.approx(rows["flops", loss] / 2, rel=1e-3)


def test_losses_that_were_not_measured_are_not_claimed() -> None:
    found = compare(planted_pair(1.3, 1.1, noise=0.002), "base", losses=np.array([1.9, 2.7, 9.0]), num_resamples=200)
    rows = {row.loss: row for row in found.multipliers if row.cost == "flops"}
    assert (rows[1.9].multiplier, rows[1.9].interval, rows[9.0].multiplier) == (None, None, None)
    assert rows[2.7].is_claimed
    assert "extrapolation" in {notice.code for notice in found.notices}
    assert len(verdicts_of(found)) == 2
    assert "1.9, 9: not claimed" in unclaimed(found)[0]


def test_a_best_split_that_nobody_trained_is_warned_of() -> None:
    """Small models on many tokens measure losses that larger ones on fewer would reach for less."""
    inside = compare(planted_pair(1.3, 1.1, noise=0.002), "base", num_resamples=200)
    assert "frontier-outside" not in {notice.code for notice in inside.notices}
    params, tokens = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e8, 5), np.geomspace(1e10, 2e11, 5)))
    losses = [predict(LAW, params, tokens), predict(LAW, 1.3 * params, 1.1 * tokens)]
    names = ["base"] * 25 + ["better"] * 25
    params, tokens = np.tile(params, 2), np.tile(tokens, 2)
    table = table_of(params, tokens, np.concatenate(losses), architecture=names, train_flops=6 * params * tokens)
    found = compare(table, "base", num_resamples=200)
    texts = [notice.text for notice in found.notices if notice.code == "frontier-outside"]
    assert any(text.startswith("base at a loss of") and "1e+07 to 1e+08 measured" in text for text in texts)
    result = fit(table, "shared")
    assert [notice.code for notice in extrapolation(result, 6 * 3e7 * 6e8, Cost())] == ["frontier-outside"]
    assert extrapolation(fit(planted_pair(1.3, 1.1), "shared"), 1e19, Cost()) == []


def test_what_runs_do_not_determine_is_not_claimed() -> None:
    """Parameters count so much that their share of the loss drowns in the noise: nobody can say how much."""
    found = compare(planted_pair(100, 1.1, noise=0.02), "base", num_resamples=300)
    rows = {cost: [row for row in found.multipliers if row.cost == cost] for cost in ("flops", "tokens")}
    for row in rows["flops"]:
        assert row.interval[1] > 10 * row.interval[0]
        assert (row.multiplier, row.is_claimed) == (None, False)
    assert all(row.is_claimed for row in rows["tokens"])
    assert "better against base in flops" in " ".join(unclaimed(found))
    assert "as many FLOPs" not in " ".join(verdicts_of(found))
    losses = np.array([row.loss for row in rows["flops"]])
    assert all(np.isnan(band).all() for band in multiplier_curve(found.fit, found.draws, "base", "better", losses))


def test_a_verdict_says_when_nothing_is_shown() -> None:
    same = compare(planted_pair(1.0, 1.0, noise=0.006, seed=1), "base", num_resamples=300)
    assert "no difference is shown" in " ".join(verdicts_of(same))
    better = compare(planted_pair(1.5, 1.2, noise=0.002), "base", num_resamples=300)
    assert "no difference" not in " ".join(verdicts_of(better))


def test_the_nested_models_name_the_right_one() -> None:
    rows = {row.form: row for row in compare(planted_pair(1.4, 1.1, noise=0.003), "base", num_resamples=200).nested}
    assert rows["shared"].p_value < 0.001
    assert rows["separate"].p_value > 0.01
    assert min(rows.values(), key=lambda row: row.aicc).form in ("shared", "shared-e")
    assert rows["shared"].error_of_largest < 0.01 < rows["chinchilla"].error_of_largest


def test_the_ratio_without_a_law() -> None:
    table = planted_pair(1.3, 1.1)
    assert frontier_ratio(table, "base", "better", "flops", 2.7) == pytest.approx(1.43, rel=0.03)
    assert frontier_ratio(table, "base", "better", "flops", 1.0) is None


def test_separate_exponents_need_runs() -> None:
    table = planted_pair(1.3, 1.1)
    few = table.select(np.r_[np.arange(12), np.arange(25, 50)])
    with pytest.raises(RefusalError, match="12 runs of base"):
        compare(few, "base", form="separate", num_resamples=100)
    with pytest.raises(RefusalError, match="--reference"):
        compare(table, "other", num_resamples=100)
    with pytest.raises(RefusalError, match="seconds"):
        compare(table, "base", units=["seconds"], num_resamples=100)


def test_exact_flops_shape_the_frontier() -> None:
    params = np.geomspace(1e7, 1e9, 9)
    cost = fit_cost(params, np.full(9, 1e10), 6 * params**0.97 * 1e10)
    assert (cost.power, cost.misfit) == (pytest.approx(0.97), pytest.approx(0, abs=1e-12))
    for one in (cost, Cost()):
        best = allocate(LAW, 1e21, one)
        grid = best.params * np.geomspace(0.5, 2, 2001)
        tokens = 1e21 / (one.factor * grid**one.power)
        losses = LAW[2] + LAW[0] * grid ** -LAW[3] + LAW[1] * tokens ** -LAW[4]
        assert grid[losses.argmin()] == pytest.approx(best.params, rel=1e-3)
        assert reach(LAW, float(best.loss), one)[0] == pytest.approx(1e21, rel=1e-9)


def test_multipliers_are_of_every_architecture_but_the_reference() -> None:
    found = compare(planted_pair(1.3, 1.1), "base", num_resamples=100)
    rows = multipliers(found.fit, found.draws, "base", np.array([2.7]), ["flops"])
    assert [row.architecture for row in rows] == ["better"]
