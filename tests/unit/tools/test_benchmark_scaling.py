"""What the scaling benchmark says without running anything."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOLS = Path(__file__).parents[3] / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("benchmark_scaling")


def row(recipe: str, stage: int, gpus: int, rate: int | None) -> dict[str, Any]:
    return {"recipe": recipe, "ZeRO": stage, "GPUs": gpus, **({} if rate is None else {"tokens/s": rate})}


def test_efficiency_is_over_the_fewest_gpus_that_ran_the_same(tool: ModuleType) -> None:
    rows: list[dict[str, Any]] = []
    given = [
        ("a", 1, 1, 100),
        ("a", 1, 4, 380),
        ("a", 3, 1, None),  # did not fit
        ("a", 3, 2, 150),
        ("a", 3, 4, 285),
        ("b", 1, 4, 40),
    ]
    for values in given:
        rows.append(row(*values))
        tool.add_efficiency(rows)
    assert [line.get("efficiency") for line in rows] == [1.0, 0.95, None, 1.0, 0.95, 1.0]


def test_what_is_planned_not_to_fit_is_named_and_left_out(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    command = [sys.executable, str(TOOLS / "benchmark_scaling.py"), "quickstart", "--data", str(tmp_path)]
    command += ["--gpus", "2", "1", "--stages", "1", "3", "--memory-gb", "0", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(out.read_text())
    assert [(line["ZeRO"], line["GPUs"]) for line in rows] == [(1, 1), (1, 2), (3, 1), (3, 2)]
    assert all("planned not to fit" in line["error"] and line["planned GB"] > 0 for line in rows)


def test_every_gpu_has_the_same_work(tool: ModuleType, tmp_path: Path) -> None:
    parser_values = {"recipes": ["quickstart"], "stages": [1], "gpus": [1, 4], "micro_steps": 3, "overrides": []}
    parser_values |= {"data": tmp_path, "steps": 5, "device": "cpu", "timeout": 1.0}
    found = [conditions.overrides[-1] for _, conditions, _ in tool.cases(type("Arguments", (), parser_values))]
    one, four = (int(override.removeprefix("global_batch_tokens=")) for override in found)
    assert four == 4 * one
