from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sisa_scale.checkpoint.manifest import WEIGHT, Manifest, write_manifest
from sisa_scale.checkpoint.saving import Written
from sisa_scale.checkpoint.slices import HostBuffer, Slice, write_part
from sisa_scale.checkpoint.storage import LocalPlace, Place
from sisa_scale.checkpoint.store import CheckpointStore

STATES = ("exp_avg", "exp_avg_sq")
SHAPES = {"embedding": [6, 4], "bias": [5], "scalar": []}
Tensors = dict[tuple[str, str], Tensor]
WriteCheckpoint = Callable[..., Manifest]
Save = Callable[..., None]


@pytest.fixture
def tensors() -> Tensors:
    """Flattened weights and states of a small model."""
    generator = torch.Generator().manual_seed(0)
    sizes = {name: torch.Size(shape).numel() for name, shape in SHAPES.items()}
    return {
        (kind, name): torch.randn(size, generator=generator)
        for kind in (WEIGHT, *STATES)
        for name, size in sizes.items()
    }


@pytest.fixture
def write_checkpoint(tensors: Tensors) -> WriteCheckpoint:
    """Write the tensors into a directory, each cut at the same places, the pieces dealt out to the ranks."""

    def write(directory: Path, *, cuts: Iterable[int] = (), world_size: int = 1, step: int = 7) -> Manifest:
        parts = write_parts(LocalPlace(directory), "rank_{:05d}.safetensors", tensors, cuts, world_size)
        manifest = make_manifest(parts, step)
        write_manifest(directory, manifest)
        return manifest

    return write


def write_parts(
    place: Place, name: str, tensors: Tensors, cuts: Iterable[int] = (), world_size: int = 1
) -> list[Written]:
    """Write the parts of all ranks; `name` is that of a part, with a place for the rank."""
    pieces = []
    for (kind, name_), values in tensors.items():
        edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(values)}), len(values)]
        pieces += [Slice(kind, name_, low, values[low:high]) for low, high in pairwise(edges)]
    written = []
    for rank in range(world_size):
        part = HostBuffer(is_pinned=False).copy(pieces[rank::world_size], torch.full((16,), rank, dtype=torch.uint8))
        written.append(write_part(place, name.format(rank), rank, part))
    return written


def make_manifest(parts: list[Written], step: int) -> Manifest:
    return Manifest(
        step=step,
        tokens=step * 512,
        config={"name": "small"},
        data_fingerprint="f" * 64,
        world_size=len(parts),
        zero_stage=1,
        shapes=SHAPES,
        slices=tuple(info for _, infos in parts for info in infos),
        files=tuple(file for file, _ in parts),
        optimizer_states=dict.fromkeys(SHAPES, STATES),
    )


@pytest.fixture
def save(tensors: Tensors) -> Save:
    """Commit the tensors as of a step."""

    def save(store: CheckpointStore, step: int, *, world_size: int = 2) -> None:
        if not store.writer:
            store.claim()
        name = store.part_name(step, 0).replace("rank_00000", "rank_{:05d}")
        store.commit(step, make_manifest(write_parts(store.place, name, tensors, (2, 5), world_size), step))

    return save
