"""Writing and reading the slices of a checkpoint.

All tensors are one-dimensional and fp32 on disk: exactly the master weights and moments of the optimizer. A part is a
safetensors file. We write it ourselves, since the library's writer makes one more copy in memory and keeps the
interpreter to itself meanwhile, which would stop the training that goes on beside it; the library reads it.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor

from sisa_scale.checkpoint.manifest import FileInfo, Manifest, SliceInfo
from sisa_scale.checkpoint.problems import refused
from sisa_scale.checkpoint.storage import Place
from sisa_scale.errors import CheckpointError
from sisa_scale.faults import fault_point

_CHUNK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Slice:
    """Elements [start, start + len(values)) of a flattened tensor; `values` is a view that may be read or written."""

    kind: str
    name: str
    start: int
    values: Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """What one rank writes, in host memory: its slices (kind, name, start, length), one after the other in `values`."""

    slices: tuple[tuple[str, str, int, int], ...]
    values: Tensor
    rng_state: Tensor

    @property
    def num_bytes(self) -> int:
        """Bytes of the values, which is the size of the file but for its header."""
        return self.values.nbytes + self.rng_state.nbytes


class HostBuffer:
    """Memory that slices are copied into, kept from one checkpoint to the next."""

    def __init__(self, *, is_pinned: bool) -> None:
        self.is_pinned = is_pinned
        self._values = torch.empty(0)

    def copy(self, slices: Iterable[Slice], rng_state: Tensor) -> Part:
        """Return copies of the slices as fp32; they hold until the next call."""
        pieces = list(slices)
        total = sum(piece.values.numel() for piece in pieces)
        if self._values.numel() != total:
            self._values = torch.empty(total, dtype=torch.float32, pin_memory=self.is_pinned)
        end = 0
        for piece in pieces:
            start, end = end, end + piece.values.numel()
            self._values[start:end].copy_(piece.values.detach(), non_blocking=self.is_pinned)
        if self.is_pinned:
            torch.cuda.synchronize()
        where = tuple((piece.kind, piece.name, piece.start, piece.values.numel()) for piece in pieces)
        return Part(where, self._values, rng_state.clone())


def write_part(place: Place, name: str, rank: int, part: Part) -> tuple[FileInfo, list[SliceInfo]]:
    """Write one rank's part durably; returns what the manifest must say of it.

    Raises CheckpointError when the disk is full or does not take the data.
    """
    file = name.rsplit("/", 1)[-1]
    infos = [SliceInfo(*fields, file) for fields in part.slices]
    digest, num_bytes = hashlib.sha256(), 0
    try:
        fault_point("checkpoint.part.before_write")
        with place.create(name) as stream:
            for chunk in _chunks(_header(infos, rank, part), part):
                stream.write(chunk)
                digest.update(chunk)
                num_bytes += len(chunk)
                fault_point("checkpoint.part.in_write")
            fault_point("checkpoint.part.after_write")
        fault_point("checkpoint.part.after_sync")
    except OSError as error:
        raise refused(place.location(name), error) from error
    return FileInfo(file, num_bytes, digest.hexdigest()), infos


def _header(infos: list[SliceInfo], rank: int, part: Part) -> bytes:
    entries, end = {}, 0
    for info in infos:
        start, end = end, end + 4 * info.length
        entries[info.key] = {"dtype": "F32", "shape": [info.length], "data_offsets": [start, end]}
    state = part.rng_state
    entries[f"rng/{rank}"] = {"dtype": "U8", "shape": list(state.shape), "data_offsets": [end, end + state.nbytes]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _chunks(header: bytes, part: Part) -> Iterator[bytes | memoryview]:
    yield header
    for tensor in (part.values, part.rng_state):
        raw = cast(Any, tensor.numpy()).data.cast("B") if tensor.numel() else b""
        for start in range(0, len(raw), _CHUNK_BYTES):
            yield raw[start : start + _CHUNK_BYTES]


class CheckpointReader:
    """Random access to the tensors of a checkpoint, whatever world size and ZeRO stage wrote it."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory, self.manifest = directory, manifest
        self._files: dict[str, Any] = {}
        self._slices: dict[tuple[str, str], list[SliceInfo]] = defaultdict(list)
        for piece in sorted(manifest.slices, key=lambda piece: piece.start):
            self._slices[piece.kind, piece.name].append(piece)

    def read(self, kind: str, name: str, start: int = 0, length: int | None = None) -> Tensor:
        """Return elements [start, start + length) of a flattened tensor, by default all of it (fp32, CPU)."""
        pieces = self._slices[kind, name]
        end = pieces[-1].start + pieces[-1].length if length is None else start + length
        parts = []
        for piece in pieces:
            low, high = max(start, piece.start), min(end, piece.start + piece.length)
            if low < high:
                tensor = self._open(piece.file).get_slice(piece.key)
                parts.append(tensor[low - piece.start : high - piece.start])
        return torch.cat(parts) if parts else torch.empty(0)

    def rng_state(self, rank: int) -> Tensor | None:
        """Return the CPU random state of a rank, or None when fewer ranks wrote the checkpoint."""
        if rank >= self.manifest.world_size:
            return None
        return self._open(self.manifest.files[rank].name).get_tensor(f"rng/{rank}")  # type: ignore[no-any-return]

    def load_weights(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Fill parameters (name, tensor) in place.

        Raises CheckpointError when names or shapes differ from those of the checkpoint.
        """
        named = dict(parameters)
        found = {name: list(tensor.shape) for name, tensor in named.items()}
        if found != self.manifest.shapes:
            differing = sorted(
                k for k in found.keys() | self.manifest.shapes.keys() if found.get(k) != self.manifest.shapes.get(k)
            )
            raise CheckpointError.at(
                self.directory,
                found=f"other parameters than the model's: {', '.join(differing[:4])}",
                allowed="names and shapes must agree",
                remedy="Use the model section the checkpoint was written with.",
            )
        for name, tensor in named.items():
            tensor.data.copy_(self.read("weight", name).view(tensor.shape))

    def _open(self, file: str) -> Any:
        if file not in self._files:
            self._files[file] = safe_open(self.directory / file, framework="pt")
        return self._files[file]
