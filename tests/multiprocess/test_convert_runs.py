"""Conversions of real runs, and training that goes on from them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conversion_cases import recorded
from processes import first_error, metrics, run_command, run_program, start_workers

from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.conversion.convert import convert
from sisa_scale.conversion.forms.opening import open_weights
from sisa_scale.errors import CheckpointError
from sisa_scale.launching.start import reopen
from sisa_scale.runs.attempts import read_attempts

ROUNDING_NATS = 2e-3


def run_at(run_dir: Path, step: int, target: Path) -> Path:
    """Copy a run as it was at a step: without the later checkpoints."""
    shutil.copytree(run_dir, target)
    store = CheckpointStore(target)
    for later in (found for found in store.steps() if found > step):
        shutil.rmtree(store.path(later))
    return target


def with_checkpoint(run_dir: Path, converted: Path, target: Path, step: int) -> Path:
    """Copy a run with its checkpoint replaced by a converted one."""
    run_at(run_dir, step, target)
    shutil.rmtree(CheckpointStore(target).path(step))
    shutil.copytree(converted, CheckpointStore(target).path(step))
    return target


@pytest.mark.parametrize("form", ["native", "safetensors"])
def test_stage_3_on_four_ranks_goes_on_as_stage_1_on_one(runs: Path, tmp_path: Path, form: str) -> None:
    recipe = runs / "tiny.yaml"
    original = run_at(runs / "stage3", 5, tmp_path / "original")
    start_workers(4, [("resave", recipe, [f"run_dir={original}", "zero_stage=3"])])
    assert open_weights(original).description.step == 5
    convert(original, tmp_path / "first", form)  # type: ignore[arg-type]
    convert(tmp_path / "first", tmp_path / "second", "native")
    moved = with_checkpoint(original, tmp_path / "second", tmp_path / "moved", 5)
    start_workers(1, [("train", recipe, [f"run_dir={d}", "zero_stage=1"]) for d in (original, moved)])
    there, here, whole = ([line["loss"] for line in metrics(d)] for d in (original, moved, runs / "stage3"))
    assert here == there
    assert here == pytest.approx(whole, abs=ROUNDING_NATS)
    for name in open_weights(moved).shapes:
        for kind in ("weight", "exp_avg", "exp_avg_sq"):
            assert torch.equal(open_weights(moved).read(name, kind), open_weights(original).read(name, kind))


def test_weights_alone_begin_a_run_and_do_not_go_on_as_one(runs: Path, tmp_path: Path) -> None:
    recipe, original = runs / "tiny.yaml", run_at(runs / "stage0", 5, tmp_path / "original")
    convert(original, tmp_path / "hf", "huggingface")
    convert(tmp_path / "hf", tmp_path / "weights", "native")
    jobs = [
        ("train", recipe, [f"run_dir={tmp_path}/{name}", f"begin_from={source}", "total=8 steps"])
        for name, source in (("a", original), ("b", tmp_path / "weights"))
    ]
    start_workers(2, jobs)
    assert [line["loss"] for line in metrics(tmp_path / "a")] == [line["loss"] for line in metrics(tmp_path / "b")]
    moved = recorded(with_checkpoint(original, tmp_path / "weights", tmp_path / "moved", 5), tmp_path / "resumed")
    code, output = run_command("resume", moved)
    assert code == 4, output
    assert "begin_from" in output

    # Whose weights a run began with may vanish as soon as it has a checkpoint of its own.
    before = [line["loss"] for line in metrics(tmp_path / "b")]
    shutil.rmtree(tmp_path / "weights")
    shutil.rmtree(CheckpointStore(tmp_path / "b").path(8))
    assert reopen(tmp_path / "b", ()).begin_from == str(tmp_path / "weights")
    start_workers(2, [("train", tmp_path / "b/config.yaml", [])])
    assert read_attempts(tmp_path / "b")[-1].from_step == 5
    assert [line["loss"] for line in metrics(tmp_path / "b")] == before
    shutil.rmtree(tmp_path / "b" / "checkpoints")
    with pytest.raises(CheckpointError, match=f"{tmp_path}/weights"):
        reopen(tmp_path / "b", ())


def test_the_commands(runs: Path, tmp_path: Path) -> None:
    run, hf = recorded(runs / "stage1", tmp_path / "run"), tmp_path / "hf"
    code, output = run_command("convert", run, hf, "--to", "huggingface", "--shard-gigabytes", "0.0005")
    assert (code, "logits are equal" in output) == (0, True), output
    card = (hf / "README.md").read_text()
    for said in ("12 steps", "data fingerprint", "sample", "bits_per_byte", "standard error", "torch", "held out"):
        assert said in card, said
    code, output = run_command("convert", run, hf, "--to", "safetensors")
    assert (code, "overwrites nothing" in output) == (2, True)
    code, output = run_command("diff", run, hf)
    assert (code, "equal" in output) == (0, True)
    earlier = CheckpointStore(run).path(5)
    code, output = run_command("diff", run, earlier, "--json")
    rows = json.loads(output)
    assert code == 1
    assert {row["name"] for row in rows} == set(open_weights(run).shapes)
    assert all(row["largest"] > 0 and row["num_different"] <= row["num_elements"] for row in rows)

    code, output = run_command("average", run, earlier, hf, "--out", tmp_path / "mean")
    assert code == 0, output
    mean, parts = open_weights(tmp_path / "mean"), [open_weights(path) for path in (run, earlier, hf)]
    for name in mean.shapes:
        wanted = torch.stack([part.read(name).double() for part in parts]).mean(0)
        torch.testing.assert_close(mean.read(name).double(), wanted, rtol=1e-7, atol=1e-12)
    code, output = run_command("inspect", tmp_path / "mean", "--json")
    said = json.loads(output)
    assert (said["step"], said["has_optimizer_state"], code) == (12, False, 0)
    assert "Mean of the weights" in said["description"]
    row = next(row for row in said["tensors"] if row["name"] == "norm.weight")
    assert row["rms"] == pytest.approx(mean.read("norm.weight").square().mean().sqrt().item())
    code, output = run_command("evaluate", tmp_path / "mean", "--tasks", "loss", "--json")
    assert code == 0, output


def test_deepspeed_loads_its_universal_form_under_every_stage(runs: Path, tmp_path: Path) -> None:
    original, universal = run_at(runs / "stage1", 5, tmp_path / "original"), tmp_path / "universal"
    convert(original, universal, "deepspeed-universal")
    done = run_program(2, Path(__file__).with_name("universal_program.py"), original, universal)
    assert done.returncode == 0, first_error(done.stderr)
    assert done.stdout.count("tensors are equal") == 6
    convert(universal, tmp_path / "native", "native")
    back, there = open_weights(tmp_path / "native"), open_weights(original)
    assert back.description.to_json() == there.description.to_json()
    for name in there.shapes:
        for kind in ("weight", "exp_avg", "exp_avg_sq"):
            assert torch.equal(back.read(name, kind), there.read(name, kind))
    with pytest.raises(CheckpointError, match="the optimizer's states"):
        convert(weights_alone(original, tmp_path), tmp_path / "other", "deepspeed-universal")
    assert not (tmp_path / "other").exists()
    damaged = next(universal.glob("*/zero/norm.weight/exp_avg.pt"))
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"norm\.weight/exp_avg\.pt"):
        open_weights(universal).read("norm.weight", "exp_avg")
    damaged.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        open_weights(universal)


def weights_alone(source: Path, folder: Path) -> Path:
    convert(source, folder / "alone", "huggingface")
    return folder / "alone"
