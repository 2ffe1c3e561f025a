"""The planner predicts what fits would know; forecasts are kept and scored."""

import json
from pathlib import Path

import numpy as np
import pytest
from scaling_tables import LAW, planted, write_csv

from sisa_scale.scaling.allocation.frontier import predict
from sisa_scale.scaling.design.plan import plan_designs
from sisa_scale.scaling.design.ranking import (
    choose,
    isoflop_design,
    ladder_design,
    quality,
    trunk_cost,
    usual_designs,
)
from sisa_scale.scaling.fit.bootstrap import a_of, bootstrap
from sisa_scale.scaling.fit.fitting import fit
from sisa_scale.scaling.fit.objectives import parse_objective
from sisa_scale.scaling.forecast import load_forecast, predict_runs, register, score
from sisa_scale.scaling.table.checks import load_table
from sisa_scale.scaling.table.notices import RefusalError
from sisa_scale.scaling.table.table import table_of

BUDGETS = np.geomspace(1e18, 1e20, 5)


@pytest.mark.parametrize(("spread", "condition", "error"), [(4.0, 41, 2.7), (2.0, 62, 5.3)])
def test_golden_designs(spread: float, condition: float, error: float) -> None:
    found = quality(isoflop_design(BUDGETS, 5, spread, LAW), LAW, 1.0, 1e22)
    assert found.flops == pytest.approx(7.3e20, rel=0.01)
    assert found.condition == pytest.approx(condition, abs=1)
    assert found.error_of_a == pytest.approx(error, abs=0.06)


def test_a_fixed_ratio_determines_nothing() -> None:
    found = quality(ladder_design(np.geomspace(5e7, 1e9, 8), (20,), repeats=3), LAW, 0.002, 1e22)
    assert found.condition > 1e6
    assert np.isinf([found.error_of_a, found.error_of_loss, found.factor_of_ratio]).all()


def test_predicted_errors_are_those_of_monte_carlo() -> None:
    design, noise = isoflop_design(BUDGETS, 5, 4.0, LAW), 0.003
    generator = np.random.default_rng(0)
    clean, laws = predict(LAW, design.params, design.tokens), []
    for _ in range(150):
        losses = clean * np.exp(noise * generator.normal(size=25))
        result = fit(table_of(design.params, design.tokens, losses), objective=parse_objective("log-mse"))
        laws.append(result.laws_K5[0])
    laws = np.array(laws)
    found = quality(design, LAW, noise, 1e22)
    assert found.error_of_a == pytest.approx(a_of(laws).std(), rel=0.15)
    best = predict(laws, *(float(v) for v in _best(LAW)))
    assert found.error_of_loss == pytest.approx(np.log(best).std(), rel=0.15)


def _best(law: np.ndarray) -> tuple[float, float]:
    from sisa_scale.scaling.allocation.frontier import Cost, allocate

    found = allocate(law, 1e22, Cost())
    return float(found.params), float(found.tokens)


def test_chosen_runs_beat_the_usual_grids_at_equal_cost() -> None:
    candidates = isoflop_design(np.geomspace(1e18, 1e20, 9), 9, 6.0, LAW)
    usual = quality(usual_designs(1e18, 1e20, LAW)[0], LAW, 0.003, 1e22)
    chosen = choose(candidates, LAW, usual.flops)
    found = quality(chosen, LAW, 0.003, 1e22)
    assert found.flops <= usual.flops
    assert found.error_of_a < usual.error_of_a


def test_the_cheapest_that_reaches_a_target() -> None:
    options = {"least": 1e18, "greatest": 1e20, "budget": None, "target": 1e22, "noise": 0.002, "table": None}
    plan = plan_designs(error_of_a=0.02, **options)
    costs = [one.flops for one in plan.qualities if one.error_of_a <= 0.02]
    assert next(one.flops for one in plan.qualities if one.name == plan.best.name) == min(costs)
    with pytest.raises(RefusalError, match="--error-of-a"):
        plan_designs(error_of_a=1e-6, **options)


def test_a_trunk_with_branches_saves_tokens() -> None:
    durations = 16.0 / 2 ** np.arange(5)
    assert trunk_cost(durations, 0.2) * durations.sum() / 16 == pytest.approx(1.19, abs=0.005)


def make(tmp_path: Path, noise: float = 0.003) -> tuple[Path, list]:
    table = load_table(write_csv(tmp_path / "runs.csv", planted(noise)))
    result = fit(table)
    predictions = predict_runs(result, bootstrap(result, 400), "all", np.array([4e9, 1e10]), np.array([8e10, 2e11]))
    register(tmp_path / "forecast.json", result.table, "chinchilla", "huber:1e-3", predictions)
    return tmp_path / "forecast.json", predictions


def later(tmp_path: Path, factor: float = 1.0) -> Path:
    params, tokens = np.array([4e9, 1e10]), np.array([8e10, 2e11])
    return write_csv(tmp_path / "later.csv", table_of(params, tokens, factor * predict(LAW, params, tokens)))


def test_a_forecast_is_scored(tmp_path: Path) -> None:
    path, predictions = make(tmp_path)
    forecast = load_forecast(path)
    assert forecast["table_sha256"] == load_table(tmp_path / "runs.csv").sha256
    assert forecast["registered"].endswith("+00:00")
    scores = score(forecast, load_table(later(tmp_path)), "later.csv")
    assert [one.is_inside for one in scores] == [True, True]
    assert all(abs(one.relative_error) < 0.02 for one in scores)
    assert predictions[0].interval[0] < predictions[0].loss < predictions[0].interval[1]
    missed = score(forecast, load_table(later(tmp_path, 1.2)), "later.csv")
    assert [one.is_inside for one in missed] == [False, False]


def test_an_altered_forecast_is_refused(tmp_path: Path) -> None:
    path, _ = make(tmp_path)
    value = json.loads(path.read_text())
    value["predictions"][0]["interval"] = [0.0, 99.0]
    path.write_text(json.dumps(value))
    with pytest.raises(RefusalError) as caught:
        load_forecast(path)
    assert caught.value.code == "forecast-altered"


def test_a_forecast_is_written_once_and_knows_what_it_has_seen(tmp_path: Path) -> None:
    path, _ = make(tmp_path)
    with pytest.raises(RefusalError, match="written once"):
        make(tmp_path)
    forecast = load_forecast(path)
    first = planted(0.003)
    forecast["predictions"][0] |= {"params_scaling": float(first.params[0]), "tokens": float(first.tokens[0])}
    with pytest.raises(RefusalError) as caught:
        score(forecast, load_table(tmp_path / "runs.csv"), "runs.csv")
    assert caught.value.code == "forecast-seen"
    with pytest.raises(RefusalError, match="no run of the predicted"):
        score(load_forecast(path), load_table(tmp_path / "runs.csv"), "runs.csv")


def test_intervals_of_forecasts_cover_new_runs() -> None:
    hits = 0
    for seed in range(40):
        result = fit(planted(0.004, seed=seed))
        (one,) = predict_runs(result, bootstrap(result, 300, seed), "all", np.array([1.5e9]), np.array([3e10]))
        new = predict(LAW, 1.5e9, 3e10) * np.exp(0.004 * np.random.default_rng(1000 + seed).normal())
        hits += one.interval[0] <= new <= one.interval[1]
    assert hits >= 35
