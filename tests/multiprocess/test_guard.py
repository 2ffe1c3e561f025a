"""Bad steps are skipped by all workers or none, leave no trace, and end in a rollback when there are too many."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import metrics, run_program

from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.config import load_config
from sisa_scale.data.read.stream import TokenStream

HERE = Path(__file__).parent


@pytest.mark.parametrize("num", [1, 2])
def test_a_refused_step_leaves_no_trace(recipe: Path, tmp_path: Path, num: int) -> None:
    done = run_program(num, HERE / "guard_program.py", recipe, tmp_path / "run")
    assert done.returncode == 0, done.stderr[-6000:]


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run_dir / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


def digests(recipe: Path, data_steps: list[int]) -> list[str]:
    stream = TokenStream(load_config(recipe).config.data)
    return [f"{stream.batch(step, 0, 1).digest:016x}" for step in data_steps]


def test_a_few_bad_steps_are_skipped_and_recorded(recipe: Path, tmp_path: Path) -> None:
    done = run_program(2, HERE / "poisoned_program.py", recipe, "6 7", "always", f"run_dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr[-6000:]
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["step"] for line in lines if line.get("skipped")] == [7, 8]
    found = events(tmp_path / "run", "step_skipped")
    assert [(line["step"], line["data_step"]) for line in found] == [(7, 6), (8, 7)]
    assert [line["stream_digest"] for line in found] == digests(recipe, [6, 7])
    assert [len(losses) for losses in found[0]["micro_losses_by_rank"]] == [2, 2]
    assert found[0]["micro_losses_by_rank"][1] == ["nan", "nan"]
    assert "nan" not in found[0]["micro_losses_by_rank"][0]
    manifest = json.loads(next((tmp_path / "run" / "checkpoints").glob("step_*12/manifest.json")).read_text())
    assert manifest["skipped_steps"] == 2

    # Adam's count is not the number of steps any more; going on from step 10 must know it.
    shutil.rmtree(CheckpointStore(tmp_path / "run").path(12))
    done = run_program(2, HERE / "poisoned_program.py", tmp_path / "run", "6 7", "always")
    assert done.returncode == 0, done.stderr[-6000:]
    assert [line["loss"] for line in metrics(tmp_path / "run")] == [line["loss"] for line in lines]


def test_many_bad_steps_roll_back_and_leave_their_data_out(recipe: Path, tmp_path: Path) -> None:
    overrides = [f"run_dir={tmp_path}/run", "guard.after_rollback=skip_data", "guard.max_skipped_in_a_row=2"]
    done = run_program(2, HERE / "poisoned_program.py", recipe, "6 7 8", "always", *overrides, max_restarts=1)
    assert done.returncode == 0, done.stderr[-6000:]
    rollback = json.loads((tmp_path / "run" / "rollbacks.json").read_text())[0]
    assert (rollback["step"], rollback["to_step"], rollback["left_out_data_steps"]) == (9, 5, [6, 7, 8])
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["stream_digest"] for line in lines] == digests(recipe, [0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14])
    assert not any(line.get("skipped") for line in lines)


def test_after_a_passing_fault_the_run_is_the_same(
    runs: Path, write_recipe: Callable[[Path], Path], tmp_path: Path
) -> None:
    overrides = [f"run_dir={tmp_path}/run", "guard.max_skipped_in_a_row=0"]
    done = run_program(2, HERE / "poisoned_program.py", write_recipe(tmp_path), "6", "once", *overrides, max_restarts=1)
    assert done.returncode == 0, done.stderr[-6000:]
    assert len(events(tmp_path / "run", "rollback")) == 1
    found, expected = metrics(tmp_path / "run"), metrics(runs / "stage1")
    assert [line["stream_digest"] for line in found] == [line["stream_digest"] for line in expected]
    assert [line["loss"] for line in found] == [line["loss"] for line in expected]


def test_the_ladder_ends(recipe: Path, tmp_path: Path) -> None:
    overrides = [f"run_dir={tmp_path}/run", "guard.max_skipped_in_a_row=0", "guard.max_rollbacks=1"]
    done = run_program(2, HERE / "poisoned_program.py", recipe, "6", "always", *overrides, max_restarts=1)
    assert done.returncode != 0
    assert len(events(tmp_path / "run", "rollback")) == 1
    assert "TrainingError" in done.stderr
    assert "1 rollbacks were made" in done.stderr
    assert "guard.after_rollback=skip_data" in done.stderr
