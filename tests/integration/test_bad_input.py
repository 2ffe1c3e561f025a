"""What a person gets who asks for something that cannot be: a message, an exit code, and nothing half-written."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import metrics, run_command, start_workers

from sisa_scale.checkpoint.store import CheckpointStore


def train(recipe: Path, *overrides: str) -> tuple[int, str]:
    return run_command("train", recipe, f"run_dir={recipe.parent}/run", *overrides)


def flip_a_bit(path: Path, offset: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(
    ("overrides", "exit_code", "says"),
    [
        (["model.kindd=sisa"], 2, "Did you mean 'kind'"),
        (["global_batch_tokens=1152"], 2, "must divide over 2 workers"),
        (["evaluation.tasks=[los]"], 2, "loss"),
        (["vocab_size=1000"], 3, "model.vocab_size"),
        (["data.path=nowhere"], 3, "no such file"),
        (["ray_address=127.0.0.1:1"], 2, "does not answer"),
        (["device=cuda"], 2, "0 GPUs"),
    ],
)
def test_refused_before_anything_is_written(recipe: Path, overrides: list[str], exit_code: int, says: str) -> None:
    if overrides == ["device=cuda"] and shutil.which("nvidia-smi"):
        pytest.skip("this machine has a GPU")
    code, output = train(recipe, *overrides)
    assert (code, says in output) == (exit_code, True), output
    assert "Traceback" not in output
    assert not list((recipe.parent / "run").glob("checkpoints/*"))


def test_truncated_shard_is_named(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "data")
    shard = tmp_path / "data" / "train-000000.tar"
    os.truncate(shard, shard.stat().st_size - 512)
    code, output = train(recipe, f"data.path={tmp_path}/data")
    assert code == 3
    assert "train-000000.tar" in output


def test_bit_flipped_shard_ends_the_run_and_is_named(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "data")
    shard = tmp_path / "data" / "train-000000.tar"
    for block in range(0, shard.stat().st_size - 4096, 16384):  # every block, so that the first batch meets one
        flip_a_bit(shard, block + 2048)
    code, output = train(recipe, f"data.path={tmp_path}/data", "resources.workers=1")
    assert code == 3, output
    assert "train-000000.tar" in output


def test_changed_model_is_refused_and_a_damaged_checkpoint_set_aside(recipe: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    start_workers(2, [("train", recipe, [f"run_dir={run_dir}", "total=10 steps"])])
    before = (run_dir / "metrics.jsonl").read_text()
    code, output = run_command("resume", run_dir, "d_ff=192", "data.seed=3")
    assert code == 4
    assert "model.d_ff" in output
    assert "data.seed" in output

    store = CheckpointStore(run_dir)
    flip_a_bit(store.path(10) / "rank_00001.safetensors", 5000)
    code, output = run_command("evaluate", run_dir)
    assert code == 4, output
    assert "rank_00001.safetensors" in output
    assert (run_dir / "metrics.jsonl").read_text() == before
    code, output = run_command("resume", run_dir, "total=12 steps")
    assert code == 0, output
    assert "checkpoint of step 10 is damaged" in output
    assert [line["step"] for line in metrics(run_dir)] == list(range(1, 13))
    assert (store.path(10).parent / "step_00000010.damaged").is_dir()

    for step in store.steps():
        manifest = store.path(step) / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"step": ', '"step": 1'))
    before = (run_dir / "metrics.jsonl").read_text()
    code, output = run_command("resume", run_dir, "total=14 steps")
    assert code == 4, output
    assert "checksum" in output
    assert (run_dir / "metrics.jsonl").read_text() == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 3 MB: room for one checkpoint of the small model, not for two."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_full_disk_during_a_checkpoint_keeps_the_one_before(recipe: Path, small_disk: Path) -> None:
    settings = ("resources.workers=1", "evaluation.tasks=[]", "retry_seconds=2")
    code, output = run_command("train", recipe, f"run_dir={small_disk}/run", *settings)
    assert code == 4, output
    assert "full disk" in output
    store = CheckpointStore(small_disk / "run")
    assert store.steps() == [5]
    assert not list(store.path(5).parent.glob(".*"))
