"""A rollback goes to a checkpoint from which the run can go on, and what its end advises works."""

from pathlib import Path

import pytest
from lone_worker import LoneWorker

from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.config import RunConfig, load_config
from sisa_scale.errors import TrainingError
from sisa_scale.runs.cursor import settle_rollbacks
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.training.health.guard import NumericalGuard, PastStep
from sisa_scale.training.hooks.rollback import RefusedSteps, RollBackError
from sisa_scale.training.step import Refusal, StepReport, TrainState


class Life:
    """As much of a run on one worker as the hook looks at, from its newest checkpoint on."""

    def __init__(self, config: RunConfig, path: Path) -> None:
        self.config, self.workers = config, LoneWorker()
        self.directory, self.store = RunDirectory(path), CheckpointStore(path)
        self.guard = NumericalGuard(config.guard, 0)
        self.directory.begin_attempt(config, ["node:1"], ["node"])
        self.step = (self.store.steps() or [0])[-1]
        settle_rollbacks(path, self.step)
        self.hook = RefusedSteps(self)  # type: ignore[arg-type]

    def take(self, *, is_bad: bool) -> None:
        self.step += 1
        self.guard.remember([PastStep(self.step, 1.0, 1.0, is_bad)])
        refusal = Refusal("loss", float("nan"), None) if is_bad else None
        report = StepReport(1.0, 1.0, 1.0, 1, self.step - 1, "", 1.0, 0.0, False, False, refusal=refusal)
        self.hook(TrainState(self.step, self.step), report)


@pytest.fixture
def config() -> RunConfig:
    return load_config("quickstart", ["guard.max_skipped_in_a_row=1", "guard.max_rollbacks=2"]).config


def save(path: Path, *steps: int) -> None:
    for step in steps:
        manifest = CheckpointStore(path).path(step) / "manifest.json"
        manifest.parent.mkdir(parents=True)
        manifest.touch()


def test_a_checkpoint_amid_refused_steps_is_no_place_to_return_to(config: RunConfig, tmp_path: Path) -> None:
    save(tmp_path, 2, 4)
    life = Life(config, tmp_path)
    life.take(is_bad=True)
    save(tmp_path, 5)  # asked to stop there
    life.store = CheckpointStore(tmp_path)
    with pytest.raises(RollBackError):
        life.take(is_bad=True)
    assert life.store.steps() == [2, 4]  # 4 may be sound: what was bad may not come again
    life = Life(config, tmp_path)
    life.take(is_bad=True)
    with pytest.raises(RollBackError):
        life.take(is_bad=True)
    assert life.store.steps() == [2]  # it came again at once
    events = life.directory.events()
    assert [e["step"] for e in events if e["event"] == "checkpoint_distrusted"] == [5, 4]


def test_the_last_checkpoint_stays_and_after_the_end_a_person_has_all_rollbacks_again(
    config: RunConfig, tmp_path: Path
) -> None:
    save(tmp_path, 4)
    for error in (RollBackError, RollBackError, TrainingError, RollBackError):
        life = Life(config, tmp_path)
        life.take(is_bad=True)
        with pytest.raises(error):
            life.take(is_bad=True)
        assert life.store.steps() == [4]
    assert [attempt.is_final for attempt in life.directory.attempts()] == [False, False, True, False]
