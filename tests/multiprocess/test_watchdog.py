"""A worker that comes to a standstill is noticed, named and ended; started again, the run is as if it had not been."""

from collections.abc import Callable
from pathlib import Path

import pytest
from processes import metrics
from ranks import events, finish_ranks, start_ranks

from sisa_scale.runs.exit_codes import HUNG

QUICK = ["watchdog.floor_seconds=4", "watchdog.slow_floor_seconds=4", "watchdog.first_seconds=60"]


def test_a_stopped_worker_is_killed_and_the_run_goes_on(
    runs: Path, write_recipe: Callable[[Path], Path], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    overrides = [f"run_dir={run_dir}", *QUICK]
    fault = "step.before_backward@rank1#17=stop"  # in step 9
    ranks = start_ranks(2, write_recipe(tmp_path), *overrides, faults=fault, folder=tmp_path / "first")
    assert finish_ranks(ranks) == [HUNG, -9]

    hang = events(run_dir, "hang")[0]
    assert (hang["suspects"], hang["suspect_rank"], hang["silent"]) == ([1], 1, [1])
    assert hang["process_states"] == {"1": "T"}
    assert "ranks [1] gave no sign of life" in hang["message"]
    stacks = (run_dir / "diagnostics" / "attempt_0001" / "rank_0.txt").read_text()
    assert "phase step, step 9" in stacks
    assert "engine.py" in stacks
    assert "watchdog.py" in stacks

    assert finish_ranks(start_ranks(2, run_dir, folder=tmp_path / "second")) == [0, 0]
    found, expected = metrics(run_dir), metrics(runs / "stage1")
    assert [line["stream_digest"] for line in found] == [line["stream_digest"] for line in expected]
    assert [line["loss"] for line in found] == [line["loss"] for line in expected]


@pytest.mark.parametrize(
    ("fault", "phase"),
    [("data.before_batch@rank0#4=sleep:600", "data_wait"), ("evaluation.before_score@rank0=sleep:600", "evaluation")],
)
def test_a_worker_that_waits_for_ever_is_named(recipe: Path, tmp_path: Path, fault: str, phase: str) -> None:
    overrides = [f"run_dir={tmp_path}/run", *QUICK]
    overrides += ["evaluation.every_steps=4", "watchdog.first_seconds=20"] if phase == "evaluation" else []
    ranks = start_ranks(2, recipe, *overrides, faults=fault, folder=tmp_path / "logs")
    assert finish_ranks(ranks) == [HUNG, HUNG]
    hang = events(tmp_path / "run", "hang")[0]
    assert hang["suspects"] == [0]
    assert f" {phase} " in hang["doing"]["0"]
    directory = tmp_path / "run" / "diagnostics" / "attempt_0001"
    assert "faults.py" in (directory / "rank_0.txt").read_text()
    assert (
        "all_gather" in (directory / "rank_1.txt").read_text() or "all_reduce" in (directory / "rank_1.txt").read_text()
    )
    assert "ended by the watchdog" in (tmp_path / "logs" / "rank_1.log").read_text()


def test_an_orderly_run_leaves_no_stacks(runs: Path) -> None:
    directory = runs / "stage1" / "diagnostics" / "attempt_0001"
    assert sorted(path.name for path in directory.iterdir()) == ["heartbeat_0.json", "heartbeat_1.json"]
    assert '"phase": "ended"' in (directory / "heartbeat_1.json").read_text()
