"""One run, whatever the number of workers and the ZeRO stage."""

import shutil
from pathlib import Path

import pytest
import torch
from processes import metrics, start_workers

from sisa_scale.checkpoint.slices import CheckpointReader
from sisa_scale.checkpoint.store import CheckpointStore, find_checkpoint
from sisa_scale.runs.logs.evaluations import read_scores

# Sums of gradients over ranks and micro-steps are taken in another order: rounding in fp32, seen through bf16.
ROUNDING_NATS = 2e-3


def losses(run_dir: Path) -> list[float]:
    return [line["loss"] for line in metrics(run_dir)]


def state(run_dir: Path) -> dict[tuple[str, str], torch.Tensor]:
    path, manifest = find_checkpoint(run_dir)
    reader = CheckpointReader(path, manifest)
    return {(kind, name): reader.read(kind, name) for kind, name in manifest.tensors}


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage3", "one-worker"])
def test_same_losses_and_tokens_as_stage_0(runs: Path, name: str) -> None:
    expected, found = metrics(runs / "stage0"), metrics(runs / name)
    assert [line["step"] for line in found] == list(range(1, 13))
    assert [line["stream_digest"] for line in found] == [line["stream_digest"] for line in expected]
    assert losses(runs / name) == pytest.approx(losses(runs / "stage0"), abs=ROUNDING_NATS)
    norms = [line["gradient_norm"] for line in expected]
    assert [line["gradient_norm"] for line in found] == pytest.approx(norms, rel=2e-2)
    evaluated = {score.step for score in read_scores(runs / name)}
    assert evaluated == ({0, 12} if name == "stage3" else {12})  # of the first weights, which changes no loss


def test_every_parameter_has_moved(runs: Path) -> None:
    path, manifest = find_checkpoint(CheckpointStore(runs / "stage1").path(5))
    reader = CheckpointReader(path, manifest)
    last = state(runs / "stage1")
    still = [name for name in manifest.shapes if torch.equal(reader.read("weight", name), last["weight", name])]
    assert still == []


@pytest.mark.parametrize(
    ("source", "workers", "stage"), [("stage0", 2, 3), ("stage3", 1, 1), ("stage2", 4, 0), ("stage1", 4, 2)]
)
def test_state_is_bit_equal_after_moving(runs: Path, tmp_path: Path, source: str, workers: int, stage: int) -> None:
    shutil.copytree(runs / source, tmp_path / "moved")
    before = state(tmp_path / "moved")
    start_workers(workers, [("resave", runs / "tiny.yaml", [f"run_dir={tmp_path}/moved", f"zero_stage={stage}"])])
    assert find_checkpoint(tmp_path / "moved")[1].world_size == workers
    after = state(tmp_path / "moved")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_an_optimizer_on_the_host_takes_the_same_steps(runs: Path, tmp_path: Path) -> None:
    run_dir, recipe = tmp_path / "run", runs / "tiny.yaml"
    settings = [f"run_dir={run_dir}", "zero_stage=3", "offload_optimizer=true"]
    start_workers(2, [("train", recipe, settings)])
    found, expected = metrics(run_dir), metrics(runs / "stage3")
    assert [line["stream_digest"] for line in found] == [line["stream_digest"] for line in expected]
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in expected], abs=1e-4)
    before = state(run_dir)
    start_workers(1, [("resave", recipe, [f"run_dir={run_dir}", "zero_stage=2"])])
    start_workers(2, [("resave", recipe, settings)])
    after = state(run_dir)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_resume_elsewhere_continues_the_trace(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "stage3", tmp_path / "moved")
    shutil.rmtree(CheckpointStore(tmp_path / "moved").path(12))
    shutil.rmtree(CheckpointStore(tmp_path / "moved").path(10))
    start_workers(4, [("train", runs / "tiny.yaml", [f"run_dir={tmp_path}/moved", "zero_stage=1"])])
    found = metrics(tmp_path / "moved")
    assert [line["step"] for line in found] == list(range(1, 13))
    assert [line["stream_digest"] for line in found] == [line["stream_digest"] for line in metrics(runs / "stage3")]
    assert losses(tmp_path / "moved") == pytest.approx(losses(runs / "stage3"), abs=ROUNDING_NATS)


def test_resume_in_place_is_bit_equal(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "stage2", tmp_path / "resumed")
    shutil.rmtree(CheckpointStore(tmp_path / "resumed").path(12))
    overrides = [f"run_dir={tmp_path}/resumed", "zero_stage=2"]
    start_workers(2, [("train", runs / "tiny.yaml", overrides)])
    assert losses(tmp_path / "resumed") == losses(runs / "stage2")
    before, after = state(runs / "stage2"), state(tmp_path / "resumed")
    assert all(torch.equal(before[key], after[key]) for key in before)
