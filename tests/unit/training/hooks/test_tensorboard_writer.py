"""TensorBoard's files, read by TensorBoard: every step once, whoever was killed between."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from sisa_scale.config import load_config
from sisa_scale.errors import ConfigError, SisaScaleWarning
from sisa_scale.training.hooks.tensorboard_writer import TensorboardWriter
from sisa_scale.training.hooks.tracker import Tracker

pytest.importorskip("tensorboard")


def curve(run_dir: Path, tag: str) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    scalars = accumulator.Scalars(tag)
    assert len({event.step for event in scalars}) == len(scalars)
    return {event.step: event.value for event in scalars}


def test_steps_that_are_taken_again_take_the_place_of_those_before(tmp_path: Path) -> None:
    first = TensorboardWriter(tmp_path)
    for step in range(1, 9):
        first.log(step, {"train/loss": 8.0 - step, "train/note": "left out"})
    # It is not closed: its process was killed. The next goes on from the checkpoint of step 5.
    second = TensorboardWriter(tmp_path)
    for step in range(6, 11):
        second.log(step, {"train/loss": 80.0 - step, "eval/a b/$x/loss": None})
    second.finish()
    expected = {step: 8.0 - step for step in range(1, 6)} | {step: 80.0 - step for step in range(6, 11)}
    assert curve(tmp_path, "train/loss") == expected


def test_turned_on_later_it_begins_with_what_the_logs_hold(tmp_path: Path) -> None:
    lines = [
        f'{{"step": {s}, "tokens": 1, "loss": {s}.5, "learning_rate": 1, "gradient_norm": 1, "tokens_per_second": 1,'
        f' "step_seconds": 1, "attempt": 1, "time": "2026-01-01T00:00:00+00:00"}}\n'
        for s in range(1, 6)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    writer = TensorboardWriter(tmp_path)
    writer.log(4, {"train/loss": 4.5})
    writer.finish()
    assert curve(tmp_path, "train/loss") == {1: 1.5, 2: 2.5, 3: 3.5, 4: 4.5}


def test_no_run_depends_on_a_writer_but_on_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("quickstart", [f"run_dir={tmp_path}", "observation.writers=[tensorboard]"]).config
    (tmp_path / "tensorboard").write_text("in the way")
    tracker = Tracker(config, is_main=True)
    with pytest.warns(SisaScaleWarning, match="tensorboard fails .* the run goes on"):
        tracker.log(1, {"train/loss": 1.0})
    tracker.log(2, {"train/loss": 1.0})
    tracker.finish()
    Tracker(config, is_main=False).log(1, {"train/loss": 1.0})
    found = importlib.util.find_spec

    def missing(name: str, package: str | None = None) -> Any:
        return None if name == "tensorboard" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(ConfigError, match=r"pip install 'sisa-scale\[tensorboard\]'"):
        Tracker(config, is_main=False)
