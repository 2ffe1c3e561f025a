"""The form that runs read and write (see checkpoint.manifest), as a source and a destination of conversions."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sisa_scale.checkpoint.manifest import WEIGHT, FileInfo, Manifest, SliceInfo, tensors, write_manifest
from sisa_scale.checkpoint.slices import CheckpointReader
from sisa_scale.checkpoint.store import Location, find_checkpoint
from sisa_scale.checkpoint.verifying import verified
from sisa_scale.conversion.forms.tensor_files import Entry, plan_shards, write_file
from sisa_scale.conversion.weights import (
    Description,
    Weights,
    check_shapes,
    checked,
)
from sisa_scale.files import sha256_file
from sisa_scale.models.meta import parameter_shapes


class NativeWeights:
    """A checkpoint of a run, whatever world size and ZeRO stage wrote it."""

    def __init__(self, path: Location) -> None:
        """Open a run directory's newest checkpoint, or one checkpoint; raises CheckpointError when it is damaged."""
        found, manifest = find_checkpoint(path)
        self.path = verified(found, manifest)
        self.description = Description(
            manifest.config,
            manifest.step,
            manifest.tokens,
            manifest.data_fingerprint,
            str(found),
            manifest.skipped_steps,
        )
        self.shapes = parameter_shapes(self.description.run)
        check_shapes(self.path, manifest.shapes, self.shapes, self.description.run.model)
        self.optimizer_states = manifest.optimizer_states
        self.reader = CheckpointReader(self.path, manifest)

    def read(self, name: str, kind: str = WEIGHT) -> Tensor:
        """Return one tensor."""
        tensor = self.reader.read(kind, name).view(self.shapes[name])
        return checked(self.path, f"{kind} of {name}", tensor, self.shapes[name])


def write_native(directory: Path, weights: Weights, shard_bytes: int, advance: Callable[[int], None]) -> None:
    """Write a checkpoint that any number of workers can load, with the optimizer's states if the source has them."""
    slices: list[SliceInfo] = []
    files: list[FileInfo] = []
    for number, shard in enumerate(plan_shards(_entries(weights), shard_bytes)):
        path = directory / f"rank_{number:05d}.safetensors"
        # World size 1: the random state of rank 0 lies in the first file.
        write_file(path, [*([_rng_entry(weights)] if number == 0 else []), *shard], advance)
        for entry in shard:
            kind, _, name = entry.name.removesuffix("/0").partition("/")
            slices.append(SliceInfo(kind, name, 0, entry.shape[0], path.name))
        files.append(FileInfo(path.name, path.stat().st_size, sha256_file(path)))
    origin = weights.description
    manifest = Manifest(
        step=origin.step,
        tokens=origin.tokens,
        config=dict(origin.config),
        data_fingerprint=origin.data_fingerprint,
        world_size=1,
        zero_stage=origin.run.execution.zero_stage,
        shapes={name: list(shape) for name, shape in weights.shapes.items()},
        slices=tuple(slices),
        files=tuple(files),
        skipped_steps=origin.skipped_steps,
        optimizer_states=dict(weights.optimizer_states),
    )
    write_manifest(directory, manifest)


def _entries(weights: Weights) -> Iterator[Entry]:
    for kind, name in tensors(weights.shapes, weights.optimizer_states):
        size = torch.Size(weights.shapes[name]).numel()
        yield Entry(f"{kind}/{name}/0", (size,), partial(_flat, weights, name, kind))


def _flat(weights: Weights, name: str, kind: str) -> Tensor:
    return weights.read(name, kind).view(-1)


def _rng_entry(weights: Weights) -> Entry:
    state = weights.reader.rng_state(0) if isinstance(weights, NativeWeights) else None
    found = torch.Generator().manual_seed(0).get_state() if state is None else state
    return Entry("rng/0", tuple(found.shape), lambda: found, torch.uint8)
