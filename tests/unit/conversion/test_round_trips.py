"""From one form to another and back: the same bits, for every model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conversion_cases import MemoryWeights, native, small
from zoo import TINY

from sisa_scale.checkpoint.manifest import tensors
from sisa_scale.checkpoint.store import find_checkpoint
from sisa_scale.config import load_config
from sisa_scale.conversion.average import average
from sisa_scale.conversion.compare import differences, summaries
from sisa_scale.conversion.convert import SHARD_BYTES, convert
from sisa_scale.conversion.forms.opening import open_weights
from sisa_scale.conversion.forms.tensor_files import Entry, plan_shards
from sisa_scale.conversion.verify import fixed_batch, streamed_logits
from sisa_scale.errors import CheckpointError
from sisa_scale.models.meta import parameter_shapes
from sisa_scale.models.sizing import count_parameters
from sisa_scale.training.resume_rules import check_resumable

PROGRAM = Path(__file__).parents[2] / "streaming_program.py"


@pytest.mark.parametrize("name", TINY)
def test_streamed_logits_are_those_of_the_whole_model(name: str) -> None:
    model = small(name)
    tokens = fixed_batch(100, 256)
    with torch.no_grad():
        wanted = model.head.logits(model.hidden(tokens))
    assert torch.equal(streamed_logits(MemoryWeights(model), tokens), wanted)


@pytest.mark.parametrize("shard_bytes", [50_000, 10**9])
@pytest.mark.parametrize("name", TINY)
def test_safetensors_keep_every_bit_of_weights_and_moments(name: str, shard_bytes: int, tmp_path: Path) -> None:
    model = small(name)
    first = native(tmp_path / "a", model, optimizer=True)
    convert(first, tmp_path / "b", "safetensors", shard_bytes=shard_bytes)
    convert(tmp_path / "b", tmp_path / "c", "native", shard_bytes=shard_bytes)
    wanted, back = open_weights(first), open_weights(tmp_path / "c")
    assert back.optimizer_states == wanted.optimizer_states != {}
    assert back.description.to_json() == wanted.description.to_json()
    for kind, key in tensors(wanted.shapes, wanted.optimizer_states):
        assert torch.equal(wanted.read(key, kind), back.read(key, kind))
    assert torch.equal(back.read("norm.weight"), model.norm.weight.detach())


def test_memory_does_not_grow_with_depth(tmp_path: Path) -> None:
    # glibc keeps what is freed of smaller tensors; with this threshold it gives them back at once.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(PROGRAM.parent)}
    peaks = []
    for layers in (4, 24):
        command = [sys.executable, str(PROGRAM), str(tmp_path / f"{layers}"), str(layers)]
        peaks.append(int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout))
    bytes_of_20_layers = 4 * 20 * (4 * 384**2 + 3 * 384 * 1024)
    assert peaks[1] - peaks[0] < bytes_of_20_layers / 10


def test_the_largest_recipe_is_planned_without_memory() -> None:
    run = load_config("sisa/13b").config
    shapes = parameter_shapes(run)

    def never() -> torch.Tensor:
        raise AssertionError("a plan reads nothing")

    entries = [Entry(name, shape, never) for name, shape in shapes.items()]
    shards = plan_shards(entries, SHARD_BYTES)
    assert sum(entry.num_bytes for entry in entries) == 4 * count_parameters(run.model).total > 45e9
    assert max(entry.num_bytes for entry in entries) < 1.3e9
    assert all(sum(entry.num_bytes for entry in shard) <= SHARD_BYTES for shard in shards)
    assert [entry for shard in shards for entry in shard] == entries


def test_weights_alone_are_not_resumed(tmp_path: Path) -> None:
    path, manifest = find_checkpoint(native(tmp_path / "a", small("sisa")))
    with pytest.raises(CheckpointError, match="begin_from"):
        check_resumable(Path(path), manifest, open_weights(tmp_path / "a").description.run, None)
    path, manifest = find_checkpoint(native(tmp_path / "b", small("sisa"), optimizer=True))
    check_resumable(Path(path), manifest, open_weights(tmp_path / "b").description.run, None)


def test_an_average_is_the_mean_and_needs_one_model(tmp_path: Path) -> None:
    paths = [native(tmp_path / f"{seed}", small("sisa")) for seed in range(2)]
    model = small("sisa")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    paths.append(native(tmp_path / "half", model))
    average(paths, tmp_path / "mean")
    first, mean = open_weights(paths[0]), open_weights(tmp_path / "mean")
    for name in first.shapes:
        torch.testing.assert_close(mean.read(name), first.read(name) * (2.5 / 3))
    with pytest.raises(CheckpointError, match="another model section"):
        average([paths[0], native(tmp_path / "other", small("mamba2"))], tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_differences_are_counted(tmp_path: Path) -> None:
    model = small("transformer")
    first = open_weights(native(tmp_path / "a", model))
    with torch.no_grad():
        model.norm.weight[3] += 0.5
    second = open_weights(native(tmp_path / "b", model))
    (found,) = differences(first, second)
    assert (found.name, found.num_different, found.num_elements) == ("norm.weight", 1, 64)
    assert found.largest == pytest.approx(0.5)
    assert found.relative == pytest.approx(0.5 / first.read("norm.weight").norm().item())
    assert not list(differences(first, first))
    other = open_weights(native(tmp_path / "c", small("mamba2")))
    assert {"only in the first", "only in the second"} <= {each.note for each in differences(first, other)}
    row = next(each for each in summaries(first) if each.name == "norm.weight")
    values = first.read("norm.weight")
    assert (row.shape, row.largest) == ((64,), values.abs().max().item())
    assert row.rms == pytest.approx(values.square().mean().sqrt().item())
