"""Evaluations of a run: before its first step, and by a life that another one has taken over meanwhile."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lone_worker import LoneWorker

from sisa_scale.config import load_config
from sisa_scale.models.head import TokenScores
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.logs.evaluations import read_scores
from sisa_scale.runs.owner import Fence, FencedError, Life
from sisa_scale.training.health.heart import Heart
from sisa_scale.training.hooks.monitors import Evaluation
from sisa_scale.training.hooks.tracker import Tracker
from sisa_scale.training.run import Run
from sisa_scale.training.step import TrainState


class Scored:
    """As much of a run on one worker as an evaluation looks at; every token has a loss of 2 nats."""

    check_fence = Run.check_fence

    def __init__(self, recipe: Path, path: Path, fence: Fence | None = None) -> None:
        self.config = load_config(recipe, ["evaluation.at_start=true", f"run_dir={path}", "resources.workers=1"]).config
        self.workers, self.fence, self.heart = LoneWorker(), fence, Heart()
        self.directory, self.num_passes = RunDirectory(path), 0
        self.engine = SimpleNamespace(score=self.score)

    def score(self, tokens_BL: torch.Tensor, targets_BL: torch.Tensor, document_BL: Any = None) -> TokenScores:
        self.num_passes += 1
        return TokenScores(torch.full(targets_BL.shape, -2.0), torch.ones(targets_BL.shape, dtype=torch.bool))


def evaluation_of(run: Scored) -> Evaluation:
    return Evaluation(run, Tracker(run.config, is_main=True))  # type: ignore[arg-type]


def test_the_first_weights_are_scored_once_however_often_the_run_begins(recipe: Path, tmp_path: Path) -> None:
    run = Scored(recipe, tmp_path / "run")
    run.directory.path.mkdir()
    evaluation_of(run).at_start(TrainState(5, 5 * 512))  # a life that goes on from a checkpoint
    assert run.num_passes == 0
    for _ in range(2):  # the first one was killed before its first checkpoint
        evaluation_of(run).at_start(TrainState())
    found = {row.metric: row for row in read_scores(run.directory.path)}
    assert (found["loss"].step, found["loss"].tokens, found["loss"].value) == (0, 0, pytest.approx(2.0))
    assert len((run.directory.path / "evaluations.jsonl").read_text().splitlines()) == 1


def test_a_life_that_was_taken_over_in_a_long_evaluation_adds_no_score(recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    with Life(path) as life:
        run = Scored(recipe, path, life)
        evaluation = evaluation_of(run)
        (path / "owner.json").write_text((path / "owner.json").read_text().replace(life.token, "another"))
        with pytest.raises(FencedError):
            evaluation.at_start(TrainState())
    assert run.num_passes > 0
    assert not (path / "evaluations.jsonl").exists()
