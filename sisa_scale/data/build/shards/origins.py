"""Where each stretch of a shard comes from: `train-000000.docs.npy` beside `train-000000.tar`.

A record for each document with a token in the shard, in order: `start`, its first token counted from the first token of
the shard (negative when it began in the shard before), `source`, the number of its file in the manifest, and `index`,
the number of its record in that file (records without text not counted). Padding belongs to the document before it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from sisa_scale.data.manifest import Manifest
from sisa_scale.errors import DataError

ORIGIN = np.dtype([("start", "<i8"), ("index", "<u8"), ("source", "<u4")])

_HEADER_BYTES = 192


@dataclass(frozen=True, slots=True)
class Origin:
    """A document in a stretch of tokens.

    source: name of its file; index: of its record there; first_token: where in the stretch it begins, 0 if before it.
    """

    source: str
    index: int
    first_token: int


class OriginWriter:
    """Writes the records of one split, a file for each shard of `shard_tokens` tokens."""

    def __init__(self, directory: Path, split: str, shard_tokens: int) -> None:
        self._directory, self._split, self._shard_tokens = directory, split, shard_tokens
        self._stream: IO[bytes] | None = None
        self._shard = -1
        self._num_records = 0
        self._last = np.zeros(0, dtype=ORIGIN)

    def add(
        self, starts: npt.NDArray[np.int64], sources: npt.NDArray[np.uint32], indexes: npt.NDArray[np.uint64]
    ) -> None:
        """Append documents; starts: counted from the first token of the split, ascending."""
        shards = starts // self._shard_tokens
        for shard in np.unique(shards).tolist():
            chosen = shards == shard
            records = np.empty(int(chosen.sum()), dtype=ORIGIN)
            records["start"] = starts[chosen]
            records["source"], records["index"] = sources[chosen], indexes[chosen]
            self._go_to(shard, has_start=int(records["start"][0]) == shard * self._shard_tokens)
            self._write(records)
            self._last = records[-1:]

    def close(self, num_shards: int) -> list[Path]:
        """Finish the file of the last of `num_shards` shards; return all files in order."""
        self._go_to(num_shards - 1, has_start=False)
        self._finish()
        return [self._path(shard) for shard in range(num_shards)]

    def _go_to(self, shard: int, *, has_start: bool) -> None:
        while self._shard < shard:
            self._finish()
            self._shard += 1
            self._stream = self._path(self._shard).open("wb")
            self._stream.write(bytes(_HEADER_BYTES))
            if self._last.size and not (has_start and self._shard == shard):
                self._write(self._last)

    def _write(self, records: npt.NDArray[np.void]) -> None:
        shifted = records.copy()
        shifted["start"] -= self._shard * self._shard_tokens
        if self._stream is not None:
            self._stream.write(shifted.tobytes())
            self._num_records += shifted.size

    def _finish(self) -> None:
        if self._stream is not None:
            self._stream.seek(0)
            self._stream.write(_header(self._num_records))
            self._stream.close()
        self._stream, self._num_records = None, 0

    def _path(self, shard: int) -> Path:
        return self._directory / origins_name(f"{self._split}-{shard:06d}.tar")


def origins_name(shard_name: str) -> str:
    """Return the name of the file with the records of a shard."""
    return shard_name.removesuffix(".tar") + ".docs.npy"


def find_origins(
    directory: Path, manifest: Manifest, split: str, block: int, first_token: int, num_tokens: int
) -> list[Origin]:
    """Return the documents of `num_tokens` tokens of a block from `first_token` on, in order.

    Raises DataError if the data set was built without these records.
    """
    number = 0
    for shard in manifest.split(split).shards:
        if block - number < shard.num_blocks:
            break
        number += shard.num_blocks
    path = directory / origins_name(shard.name)
    try:
        records = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError.at(
            path,
            found=f"no list of documents ({error})",
            allowed="data sets of this release have one beside each shard",
            remedy="Build the data set again to be able to trace its documents.",
        ) from error
    begin = (block - number) * manifest.block_tokens + first_token
    low = int(np.searchsorted(records["start"], begin, side="right")) - 1
    high = int(np.searchsorted(records["start"], begin + num_tokens, side="left"))
    return [
        Origin(manifest.sources[int(row["source"])].name, int(row["index"]), max(0, int(row["start"]) - begin))
        for row in records[max(low, 0) : high]
    ]


def _header(num_records: int) -> bytes:
    fields = f"{{'descr': {ORIGIN.descr}, 'fortran_order': False, 'shape': ({num_records},), }}"
    magic = b"\x93NUMPY\x01\x00"
    length = _HEADER_BYTES - len(magic) - 2
    return magic + length.to_bytes(2, "little") + fields.ljust(length - 1).encode() + b"\n"
