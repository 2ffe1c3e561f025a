"""safetensors files that are written and read one tensor at a time.

The library's own writer wants all tensors of a file in memory; this one needs the largest. The format: eight bytes
with the length of a JSON header, the header, the data.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sisa_scale.conversion.forms.json_files import read_json
from sisa_scale.errors import CheckpointError

_NAMES = {torch.float32: "F32", torch.uint8: "U8"}
SUFFIX = ".safetensors"


class Entry(NamedTuple):
    """A tensor that is still to be read: its name in the file, its shape, and what reads it."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    dtype: torch.dtype = torch.float32

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def plan_shards(entries: Iterable[Entry], shard_bytes: int) -> list[list[Entry]]:
    """Deal entries out in order, so that no file is larger than `shard_bytes` unless one tensor alone is."""
    shards: list[list[Entry]] = []
    room = 0
    for entry in entries:
        if not shards or entry.num_bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(entry)
        room -= entry.num_bytes
    return shards


def write_file(path: Path, entries: Sequence[Entry], advance: Callable[[int], None]) -> None:
    """Write tensors in order; at most one is in memory. `advance` is told of every tensor's bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        span = [offset, offset := offset + entry.num_bytes]
        header[entry.name] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": span}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("xb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for entry in entries:
            tensor = entry.read()
            assert tensor.dtype == entry.dtype
            assert tuple(tensor.shape) == entry.shape
            stream.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            del tensor
            advance(entry.num_bytes)


def write_shards(
    directory: Path, stem: str, entries: Iterable[Entry], shard_bytes: int, advance: Callable[[int], None]
) -> None:
    """Write STEM.safetensors, or STEM-00001-of-0000N.safetensors with STEM.safetensors.index.json."""
    shards = plan_shards(entries, shard_bytes)
    if len(shards) == 1:
        write_file(directory / f"{stem}{SUFFIX}", shards[0], advance)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}{SUFFIX}"
        write_file(directory / file, shard, advance)
        weight_map |= {entry.name: file for entry in shard}
    total = sum(entry.num_bytes for shard in shards for entry in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / f"{stem}{SUFFIX}.index.json").write_text(json.dumps(index, indent=2) + "\n")


class TensorFiles:
    """The tensors of a directory that `write_shards`, or another program, wrote under a stem."""

    def __init__(self, directory: Path, stem: str) -> None:
        """Read the headers alone; raises CheckpointError when a file cannot be trusted."""
        self.directory = directory
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Path] = {}
        claimed = _weight_map(directory, stem)
        for file in sorted(set(claimed.values())) if claimed is not None else [f"{stem}{SUFFIX}"]:
            with _opened(directory / file) as opened:
                names = list(opened.keys())
                self.shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in names}
            for name in names:
                if name in self._files or (claimed is not None and claimed.get(name) != file):
                    raise _broken(directory / file, f"{name}, which the index does not place there", _WHOLE)
                self._files[name] = directory / file
        missing = sorted((claimed or {}).keys() - self._files.keys())
        if missing:
            raise _broken(directory / claimed[missing[0]] if claimed else directory, f"no {missing[0]}", _WHOLE)

    def read(self, name: str) -> Tensor:
        """Return one tensor as it is stored."""
        with _opened(self._files[name]) as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor


_WHOLE = "the index names every tensor once, with the file that holds it"


def _weight_map(directory: Path, stem: str) -> Mapping[str, str] | None:
    """Return file by tensor name, None without an index; a file is a plain name beside the index."""
    path = directory / f"{stem}{SUFFIX}.index.json"
    if not path.is_file():
        return None
    found = read_json(path).get("weight_map")
    if not isinstance(found, dict):
        raise _broken(path, "no weight_map", _WHOLE)
    pairs = {str(name): str(file) for name, file in found.items()}
    for file in pairs.values():
        if Path(file).name != file or "\\" in file or not file.endswith(SUFFIX):
            raise _broken(path, f"the file name {file!r}", f"files lie beside the index and end in {SUFFIX}")
    return pairs


class _opened:  # noqa: N801 - a context manager, read as a function
    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        try:
            self._file = cast(Any, safe_open(self.path, framework="pt"))
        except FileNotFoundError:
            raise _broken(self.path, "no such file", "weights are safetensors files") from None
        except (SafetensorError, OSError) as error:
            raise _broken(self.path, f"a damaged safetensors file ({error})", "header and data are whole") from None
        return self._file.__enter__()

    def __exit__(self, *_: object) -> None:
        self._file.__exit__(None, None, None)


def _broken(path: Path, found: str, allowed: str) -> CheckpointError:
    return CheckpointError.at(path, found=found, allowed=allowed, remedy="Copy or convert it again from its origin.")
