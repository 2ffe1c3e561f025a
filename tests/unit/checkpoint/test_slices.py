import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from sisa_scale.checkpoint.manifest import FileInfo, Manifest, SliceInfo, read_manifest
from sisa_scale.checkpoint.slices import CheckpointReader, HostBuffer, Slice, write_part
from sisa_scale.checkpoint.storage import LocalPlace
from sisa_scale.errors import CheckpointError

Tensors = dict[tuple[str, str], Tensor]
WriteCheckpoint = Callable[..., Manifest]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.data())
def test_any_range_comes_back_from_any_sharding(
    write_checkpoint: WriteCheckpoint, tensors: Tensors, tmp_path: Path, data: st.DataObject
) -> None:
    directory = tmp_path / "checkpoint"
    shutil.rmtree(directory, ignore_errors=True)
    cuts, world_size = data.draw(st.sets(st.integers(1, 23))), data.draw(st.integers(1, 4))
    write_checkpoint(directory, cuts=cuts, world_size=world_size)
    reader = CheckpointReader(directory, read_manifest(directory))
    for (kind, name), values in tensors.items():
        assert torch.equal(reader.read(kind, name), values)
        start = data.draw(st.integers(0, len(values)))
        length = data.draw(st.integers(0, len(values) - start))
        assert torch.equal(reader.read(kind, name, start, length), values[start : start + length])


@pytest.mark.parametrize("value", [float("nan"), -0.0, 1e-45, float("-inf"), 3.4e38])
def test_every_bit_comes_back(tmp_path: Path, value: float) -> None:
    values = torch.tensor([value, 1.0])
    file, slices = write(tmp_path, 0, values)
    manifest = Manifest(1, 1, {}, "", 1, 0, {"w": [2]}, tuple(slices), (file,), optimizer_states={})
    back = CheckpointReader(tmp_path, manifest).read("weight", "w")
    assert torch.equal(back.view(torch.int32), values.view(torch.int32))


def test_weights_are_filled_in_place(write_checkpoint: WriteCheckpoint, tensors: Tensors, tmp_path: Path) -> None:
    manifest = write_checkpoint(tmp_path, cuts=[3], world_size=3)
    parameters = {name: torch.nn.Parameter(torch.zeros(shape)) for name, shape in manifest.shapes.items()}
    CheckpointReader(tmp_path, manifest).load_weights(parameters.items())
    assert all(torch.equal(p.data.flatten(), tensors["weight", name]) for name, p in parameters.items())


@pytest.mark.parametrize(
    ("shapes", "differing"),
    [
        ({"embedding": [4, 6], "bias": [5], "scalar": []}, "embedding"),
        ({"embedding": [6, 4], "bias": [5]}, "scalar"),
        ({"embedding": [6, 4], "bias": [4], "scalar": [], "gain": [1]}, "bias, gain"),
    ],
)
def test_another_model_is_refused(
    write_checkpoint: WriteCheckpoint, tmp_path: Path, shapes: dict[str, list[int]], differing: str
) -> None:
    manifest = write_checkpoint(tmp_path)
    parameters = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(CheckpointError, match=f"model's: {differing};"):
        CheckpointReader(tmp_path, manifest).load_weights(parameters.items())
    assert not any(tensor.any() for tensor in parameters.values())


def test_every_rank_finds_its_random_state(write_checkpoint: WriteCheckpoint, tmp_path: Path) -> None:
    reader = CheckpointReader(tmp_path, write_checkpoint(tmp_path, world_size=3))
    for rank in range(3):
        state = reader.rng_state(rank)
        assert state is not None
        assert state.tolist() == [rank] * 16
    assert reader.rng_state(3) is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 64 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a small disk here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_is_named(small_disk: Path) -> None:
    write(small_disk, 0, torch.zeros(1000))
    with pytest.raises(CheckpointError, match=r"found a full disk; .*Free space") as caught:
        write(small_disk, 1, torch.zeros(50_000))
    assert caught.value.exit_code == 4
    assert str(small_disk) in str(caught.value)


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="a disk that refuses the data"):
        write(tmp_path / "file", 0, torch.zeros(2))


def test_the_library_reads_and_writes_the_same_tensors(tmp_path: Path) -> None:
    values = torch.arange(7, dtype=torch.float32)
    file, _ = write(tmp_path, 3, values)
    found = load_file(tmp_path / file.name)
    assert found.keys() == {"weight/w/0", "rng/3"}
    assert torch.equal(found["weight/w/0"], values)
    assert found["rng/3"].tolist() == [0, 1, 2, 3]
    save_file(found, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").stat().st_size == file.num_bytes


def test_a_copy_does_not_change_with_the_model_and_its_memory_is_kept() -> None:
    buffer, weight, state = HostBuffer(is_pinned=False), torch.ones(5, dtype=torch.bfloat16), torch.get_rng_state()
    slices = [Slice("weight", "w", 0, weight[:3]), Slice("weight", "v", 7, weight[3:])]
    part = buffer.copy(slices, state)
    weight.zero_()
    torch.rand(3)
    assert part.values.tolist() == [1.0] * 5
    assert part.values.dtype == torch.float32
    assert part.slices == (("weight", "w", 0, 3), ("weight", "v", 7, 2))
    assert torch.equal(part.rng_state, state)
    assert not torch.equal(torch.get_rng_state(), state)
    assert buffer.copy(slices, state).values.data_ptr() == part.values.data_ptr()
    assert buffer.copy(slices[:1], state).values.tolist() == [0.0] * 3


def write(directory: Path, rank: int, values: Tensor) -> tuple[FileInfo, list[SliceInfo]]:
    state = torch.arange(4, dtype=torch.uint8)
    part = HostBuffer(is_pinned=False).copy([Slice("weight", "w", 0, values)], state)
    return write_part(LocalPlace(directory), f"rank_{rank:05d}.safetensors", rank, part)
