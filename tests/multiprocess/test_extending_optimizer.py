"""The optimizer of docs/extending.md, added from outside: trained under ZeRO, saved, resumed, converted, planned."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from processes import first_error, metrics, run_program

from sisa_scale.checkpoint.slices import CheckpointReader
from sisa_scale.checkpoint.store import CheckpointStore, find_checkpoint
from sisa_scale.config import load_config
from sisa_scale.config.optimizers.table import OPTIMIZERS
from sisa_scale.conversion.convert import convert
from sisa_scale.conversion.forms.opening import open_weights
from sisa_scale.errors import CheckpointError, ConfigError
from sisa_scale.launching.doctor.run import checkpoint_bytes
from sisa_scale.training.resume_rules import check_resumable

PROGRAM = Path(__file__).with_name("lion_program.py")
GUIDE = Path(__file__).parents[2] / "docs" / "extending.md"
SETTINGS = ["optimizer.kind=lion", "learning_rate=3e-4", "checkpoint.asynchronous=false"]


@pytest.fixture
def folder(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the recipe and the files of the guide; the optimizer is registered here, too."""
    section = re.split(r"^## ", GUIDE.read_text(), flags=re.M)
    (text,) = (part for part in section if part.startswith("An optimizer"))
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    for name, block in zip(("lion.py", "lion_step.py", "line.py"), blocks, strict=True):
        (recipe.parent / name).write_text(block)
    monkeypatch.syspath_prepend(recipe.parent)
    before = dict(OPTIMIZERS)
    names = {"OPTIMIZERS": OPTIMIZERS}
    exec(blocks[0], names)
    exec(blocks[2], names)
    yield recipe.parent
    OPTIMIZERS.clear()
    OPTIMIZERS.update(before)
    for name in ("lion", "lion_step"):
        sys.modules.pop(name, None)


def start(num: int, *jobs: tuple[str, Path, list[str]]) -> None:
    described = [[action, str(recipe), [*changes, *SETTINGS, f"workers={num}"]] for action, recipe, changes in jobs]
    done = run_program(num, PROGRAM, json.dumps(described))
    assert done.returncode == 0, first_error(done.stderr)


def state(run_dir: Path, step: int) -> dict[tuple[str, str], torch.Tensor]:
    path, manifest = find_checkpoint(CheckpointStore(run_dir).path(step))
    assert manifest.optimizer_states == dict.fromkeys(manifest.shapes, ("momentum",))
    reader = CheckpointReader(path, manifest)
    return {(kind, name): reader.read(kind, name) for kind, name in manifest.tensors}


def test_an_optimizer_from_outside(folder: Path, recipe: Path) -> None:
    run_dir, moved, zero3 = (folder / name for name in ("run", "moved", "zero3"))
    start(2, ("train", recipe, [f"run_dir={run_dir}", "zero_stage=1"]))
    saved = state(run_dir, 12)
    assert {kind for kind, _ in saved} == {"weight", "momentum"}
    assert all(tensor.any() for (kind, _), tensor in saved.items() if kind == "momentum")
    for copy in (moved, zero3):
        shutil.copytree(run_dir, copy)
        shutil.rmtree(CheckpointStore(copy).path(12))
        shutil.copytree(run_dir / "checkpoints" / "step_00000012", folder / f"{copy.name}-12")
    start(
        1,
        ("resave", recipe, [f"run_dir={moved}", "zero_stage=1"]),
        ("resave", recipe, [f"run_dir={zero3}", "zero_stage=3"]),
        ("train", recipe, [f"run_dir={moved}", "zero_stage=1"]),
    )
    before = state(run_dir, 10)
    for copy in (moved, zero3):
        after = state(copy, 10)
        assert after.keys() == before.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    assert find_checkpoint(CheckpointStore(moved).path(10))[1].world_size == 1
    # The last two steps, taken again by one worker.
    losses = [[line["loss"] for line in metrics(path)] for path in (run_dir, moved)]
    assert losses[1] == pytest.approx(losses[0], abs=2e-3)

    for source, target, form in (("run", "plain", "safetensors"), ("plain", "native", "native")):
        convert(folder / source, folder / target, form)
    convert(folder / "native", folder / "universal", "deepspeed-universal")
    for name in ("plain", "native", "universal"):
        weights = open_weights(folder / name)
        assert all(torch.equal(weights.read(key, kind).view(-1), saved[kind, key]) for kind, key in saved)
    assert not list((folder / "universal").glob("*/zero/*/step.pt"))

    config = load_config(recipe, SETTINGS).config
    assert checkpoint_bytes(config) == 2 * 4 * sum(
        tensor.numel() for (kind, _), tensor in saved.items() if kind == "weight"
    )
    found, manifest = find_checkpoint(run_dir)
    with pytest.raises(CheckpointError, match=r"optimizer\.kind: found adamw; .* states of lion; .* momentum of"):
        check_resumable(found, manifest, load_config(recipe).config, None)
    del OPTIMIZERS["lion"]
    with pytest.raises(ConfigError, match=r"optimizer\.kind: found lion; must be one of adamw, muon"):
        open_weights(run_dir)
