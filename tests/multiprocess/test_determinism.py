"""`execution.determinism: strict`: two runs of one recipe are equal to the last bit."""

from pathlib import Path

import torch
from processes import metrics, start_workers

from sisa_scale.checkpoint.slices import CheckpointReader
from sisa_scale.checkpoint.store import find_checkpoint


def state(run_dir: Path) -> dict[tuple[str, str], torch.Tensor]:
    path, manifest = find_checkpoint(run_dir)
    reader = CheckpointReader(path, manifest)
    return {(kind, name): reader.read(kind, name) for kind, name in manifest.tensors}


def test_two_strict_runs_are_bitwise_equal(recipe: Path, tmp_path: Path) -> None:
    strict = ["execution.determinism=strict", "zero_stage=2", "schedule.total=8 steps"]
    start_workers(2, [("train", recipe, [f"run_dir={tmp_path}/{name}", *strict]) for name in ("once", "again")])
    once, again = metrics(tmp_path / "once"), metrics(tmp_path / "again")
    for key in ("loss", "gradient_norm", "stream_digest"):
        assert [line[key] for line in once] == [line[key] for line in again]
    before, after = state(tmp_path / "once"), state(tmp_path / "again")
    assert len(before) > 10
    assert all(torch.equal(before[key], after[key]) for key in before)
