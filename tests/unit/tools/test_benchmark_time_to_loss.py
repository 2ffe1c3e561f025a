"""When a target is reached, and what ratios say of several seeds; the training itself is the product's."""

import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from run_lines import step_row

from sisa_scale.runs.logs.evaluations import ScoreRow, append_scores
from sisa_scale.runs.logs.metrics import append_step

TOOLS = Path(__file__).parents[3] / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("benchmark_time_to_loss")


def test_the_target_is_reached_on_the_line_between_two_measurements(tool: ModuleType) -> None:
    losses = {10: 5.0, 20: 4.0, 30: 3.0, 40: 3.6, 50: 2.0}
    assert tool.reached(losses, 3.25) == pytest.approx(27.5)
    assert tool.reached(losses, 3.0) == 30
    assert tool.reached(losses, 2.0) == 50
    assert tool.reached(losses, 5.5) == 10
    assert tool.reached(losses, 1.9) is tool.reached({}, 1.9) is None


def test_seconds_leave_compiling_out(tool: ModuleType) -> None:
    seconds = [60.0, 1.0, 3.0, 2.0, 2.0]
    assert tool.seconds_until(seconds, 1.0) == 2.0
    assert tool.seconds_until(seconds, 2.5) == pytest.approx(2.0 + 1.0 + 1.5)
    assert tool.seconds_until(seconds, 5.0) == pytest.approx(10.0)


def test_a_run_is_read_from_its_logs(tool: ModuleType, tmp_path: Path) -> None:
    for step in range(1, 9):
        append_step(tmp_path, step_row(step))
    for step, loss in ((4, 5.0), (8, 4.0)):
        append_scores(tmp_path, [ScoreRow(step, 256 * step, "loss", "data", "loss", "nats", 8, loss)])
    found = tool.read_race(tmp_path, 4.5, 1e12)
    assert found == {"step": 6.0, "seconds": 3.0, "tokens": 1536, "PFLOPs": 1.536, "best loss": 4.0}
    never = tool.read_race(tmp_path, 3.9, 1e12)
    assert never == dict.fromkeys(("step", "seconds", "tokens", "PFLOPs")) | {"best loss": 4.0}


def test_a_ratio_is_a_geometric_mean_with_an_interval(tool: ModuleType) -> None:
    assert tool.mean_ratio([0.8]) == (pytest.approx(0.8), None, None)
    mean, low, high = tool.mean_ratio([0.5, 2.0, 0.5, 2.0])
    assert mean == pytest.approx(1.0)
    half = 3.182 * math.log(2) * math.sqrt(4 / 3) / 2  # t of 3 degrees of freedom
    assert (low, high) == (pytest.approx(math.exp(-half), rel=1e-3), pytest.approx(math.exp(half), rel=1e-3))


def row(recipe: str, seed: int, seconds: float | None) -> dict[str, Any]:
    found = dict.fromkeys(("step", "seconds", "tokens", "PFLOPs"), seconds)
    return {"recipe": recipe, "seed": seed, **found}


def test_runs_are_paired_by_seed(tool: ModuleType) -> None:
    rows = [row("a", 0, 10.0), row("b", 0, 5.0), row("a", 1, None), row("b", 1, 9.0), row("a", 2, 40.0)]
    rows.append(row("b", 2, 20.0))
    first, second = tool.summary(rows, ["a", "b"])
    assert (first["reached"], second["reached"]) == ("2 of 3", "3 of 3")
    assert (first["seconds"], second["seconds"]) == (25.0, 9.0)
    assert first["seconds ratio"] is None
    assert second["tokens ratio"] == "0.500 [0.500, 0.500]"
    alone = tool.summary([row("a", 0, None), row("b", 0, None)], ["a", "b"])
    assert [line["seconds"] for line in alone] == [None, None]
