"""The data tars: how they are laid out, and how they are written. `data.reader` reads them.

A shard is an uncompressed USTAR archive that plain `webdataset` reads too. Each member `00000017.npy` is one block of
the token stream of its split: block b holds the tokens [b * block_tokens, (b + 1) * block_tokens], ends included, so
that neighbours share one token and every token but the first of the split is a target exactly once. The last block of
a split may be shorter. The last member, `__index__`, says where the tokens of each block lie and what their XXH3 is;
the same index lies beside the shard, and its SHA-256 in the manifest, so that opening a shard costs no scan. Equal
tokens give equal bytes: the headers hold no time and no user, and the `.npy` header is written here so that it does not
depend on the version of numpy.
"""

import hashlib
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sisa_scale.data.manifest import INDEX_MEMBER, Manifest, ShardInfo
from sisa_scale.files import write_text

TokenArray = npt.NDArray[np.unsignedinteger[Any]]

INDEX_VERSION = 1

_TAR_RECORD_BYTES = 512
_TAR_END_BYTES = 2 * _TAR_RECORD_BYTES
_NPY_HEADER_BYTES = 128


class SplitWriter:
    """Packs the token stream of one split into blocks and shards. Holds one block in memory."""

    def __init__(self, directory: Path, split: str, dtype: str, block_tokens: int, blocks_per_shard: int) -> None:
        self._directory, self._split, self._blocks_per_shard = directory, split, blocks_per_shard
        self._buffer: TokenArray = np.empty(block_tokens + 1, dtype)
        self._num_buffered = 0
        self._num_blocks = 0
        self._shard: _ShardWriter | None = None
        self._finished: list[ShardInfo] = []

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """Of the stored tokens."""
        return self._buffer.dtype

    def add(self, tokens: TokenArray) -> None:
        """Append tokens, 1-D and of the stored type, to the stream."""
        while tokens.size:
            taken = tokens[: self._buffer.size - self._num_buffered]
            self._buffer[self._num_buffered : self._num_buffered + taken.size] = taken
            self._num_buffered += taken.size
            tokens = tokens[taken.size :]
            if self._num_buffered == self._buffer.size:
                self._write_block()

    def close(self) -> tuple[ShardInfo, ...]:
        """Write what is left, with two tokens or more, as the partial last block; return the shards in order."""
        if self._num_buffered > 1:
            self._write_block()
        self._finish_shard()
        return tuple(self._finished)

    def _write_block(self) -> None:
        if self._shard is None:
            name = f"{self._split}-{len(self._finished):06d}.tar"
            self._shard = _ShardWriter(self._directory / name, self._buffer.dtype.str)
        self._shard.add(f"{self._num_blocks:08d}.npy", self._buffer[: self._num_buffered])
        self._num_blocks += 1
        self._buffer[0] = self._buffer[self._num_buffered - 1]
        self._num_buffered = 1
        if self._num_blocks % self._blocks_per_shard == 0:
            self._finish_shard()

    def _finish_shard(self) -> None:
        if self._shard is not None:
            self._finished.append(self._shard.close())
            self._shard = None


class _ShardWriter:
    def __init__(self, path: Path, dtype: str) -> None:
        self._path, self._dtype = path, dtype
        self._blocks: list[tuple[int, int, str]] = []
        self._digest = hashlib.sha256()
        self._num_bytes = 0
        self._stream = path.open("wb")

    def add(self, name: str, tokens: TokenArray) -> None:
        import xxhash

        data = tokens.tobytes()
        offset = self._num_bytes + _TAR_RECORD_BYTES + _NPY_HEADER_BYTES
        self._blocks.append((offset, tokens.size, xxhash.xxh3_64_hexdigest(data)))
        self._add_member(name, _npy_header(self._dtype, tokens.size) + data)

    def close(self) -> ShardInfo:
        index = json.dumps({"version": INDEX_VERSION, "dtype": self._dtype, "blocks": self._blocks})
        self._add_member(INDEX_MEMBER, index.encode())
        self._write(bytes(_TAR_END_BYTES))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        info = ShardInfo(
            name=self._path.name,
            num_bytes=self._num_bytes,
            sha256=self._digest.hexdigest(),
            num_blocks=len(self._blocks),
            num_tokens=sum(num_tokens for _, num_tokens, _ in self._blocks),
            index_sha256=hashlib.sha256(index.encode()).hexdigest(),
        )
        write_text(self._path.with_name(info.index_name), index)
        return info

    def _add_member(self, name: str, data: bytes) -> None:
        header = tarfile.TarInfo(name)  # time, user and group are 0
        header.size = len(data)
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        self._write(data)
        self._write(bytes(-len(data) % _TAR_RECORD_BYTES))

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self._num_bytes += len(data)


def block_place(manifest: Manifest, shard: ShardInfo, number: int) -> tuple[int, int]:
    """Return the offset and token count of a block of a shard, which follow from the manifest alone."""
    full_tokens = manifest.block_tokens + 1
    member_bytes = _NPY_HEADER_BYTES + full_tokens * manifest.item_bytes
    stride_bytes = _TAR_RECORD_BYTES + member_bytes + -member_bytes % _TAR_RECORD_BYTES
    is_last = number == shard.num_blocks - 1
    num_tokens = shard.num_tokens - number * full_tokens if is_last else full_tokens
    return _TAR_RECORD_BYTES + _NPY_HEADER_BYTES + number * stride_bytes, num_tokens


def _npy_header(dtype: str, num_tokens: int) -> bytes:
    fields = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({num_tokens},), }}"
    magic = b"\x93NUMPY\x01\x00"
    length = _NPY_HEADER_BYTES - len(magic) - 2
    return magic + length.to_bytes(2, "little") + fields.ljust(length - 1).encode() + b"\n"
