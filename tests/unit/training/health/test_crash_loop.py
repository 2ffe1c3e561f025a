from pathlib import Path

import pytest
from run_lines import TIME, step_row

from sisa_scale.runs.attempts import Attempt
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.training.health.crash_loop import loop_error, unsaved


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path)
    for step in range(1, 6):
        run.add_step(step_row(step))
    return run


def make_checkpoint(run: RunDirectory, step: int) -> None:
    directory = run.path / f"checkpoints/step_{step:08d}"
    directory.mkdir(parents=True)
    (directory / "manifest.json").touch()


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (None, "There is no checkpoint yet; 5 later steps (2.5 s of work) are lost and will be taken again."),
        (3, "The newest checkpoint is of step 3; 2 later steps (1.0 s of work) are lost and will be taken again."),
        (5, "The newest checkpoint is of step 5; 0 later steps (0.0 s of work) are lost and will be taken again."),
    ],
)
def test_what_is_lost_is_said_in_steps_and_seconds(run: RunDirectory, step: int | None, words: str) -> None:
    if step is not None:
        make_checkpoint(run, step)
    assert unsaved(run.path) == words


def test_a_loop_is_explained(run: RunDirectory) -> None:
    make_checkpoint(run, 3)
    shape = {"world_size": 2, "zero_stage": 1, "started": TIME}
    dead = {"outcome": "failed", "reason": "rank 1: gone", "reached_step": 5}
    loop = [Attempt(attempt=number, **shape, **dead) for number in (4, 5, 6)]
    text = str(loop_error(run.path, loop))
    for part in ("step 6", "3 attempts in a row", "attempt 5: rank 1: gone", "2 later steps (1.0 s of work)", "replay"):
        assert part in text
