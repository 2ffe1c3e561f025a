"""Reads the sequences of one split by block and row, checking every block when it is opened.

Nothing grows with the corpus but the manifest: the indexes and the blocks that are open are kept in bounded tables.
Files are read with `pread`, not mapped: one that is cut off while it is open is an error, not a dead process, and its
pages are no memory of the loader.
"""

import hashlib
import json
import os
import resource
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sisa_scale.data.manifest import Manifest, ShardInfo
from sisa_scale.data.read.blocks import BlockKey, LocalBlocks, OpenBlock, RemoteBlocks, Room
from sisa_scale.data.read.cache import BlockCache
from sisa_scale.data.read.fetcher import BlockFetcher
from sisa_scale.data.read.storage import Buffer, DamageError, LocalStorage, Storage, unreadable
from sisa_scale.data.shards import INDEX_VERSION, TokenArray, block_place
from sisa_scale.errors import DataError

# Rows of the blocks that fit are copied from the bytes that were checked; rows of the others are read from their file.
# Of the 512 lanes of an order, a rank among eight keeps 64 blocks of a megabyte open.
MEMORY_BYTES = 128 << 20
_MAX_OPEN_BLOCKS = 1024  # twice the lanes of an order; each may hold a file descriptor
_MAX_INDEXES = 8192
_WANTED_FILES = 16384


class ShardReader:
    """The sequences of one split. May be used from several threads.

    storage: of the data set; cache: of this node, needed for a server.
    """

    def __init__(self, storage: Storage, manifest: Manifest, split: str, cache: BlockCache | None = None) -> None:
        self.storage, self.manifest, self.split = storage, manifest, split
        self._shards = manifest.split(split).shards
        self._first_blocks = np.cumsum([0, *(shard.num_blocks for shard in self._shards)])
        room = Room(MEMORY_BYTES, (manifest.block_tokens + 1) * manifest.item_bytes)
        if isinstance(storage, LocalStorage):
            self._blocks: LocalBlocks | RemoteBlocks = LocalBlocks(storage, manifest, room)
        else:
            assert cache is not None, "a remote data set is read through a cache"
            self._blocks = RemoteBlocks(storage, manifest, cache, room)
        max_open = min(_MAX_OPEN_BLOCKS, _raise_file_limit() // 4, self._blocks.max_open or _MAX_OPEN_BLOCKS)
        self._index = lru_cache(_MAX_INDEXES)(self._read_index)
        self._open = lru_cache(max_open)(self._open_block)
        self._fetcher = BlockFetcher(lambda block: self._blocks.open(self._key(block)))

    @property
    def num_blocks(self) -> int:
        """Blocks of the split."""
        return int(self._first_blocks[-1])

    @property
    def is_remote(self) -> bool:
        """Whether the blocks come from a server."""
        return isinstance(self._blocks, RemoteBlocks)

    def read_rows(
        self,
        blocks: Sequence[int],
        rows: Sequence[int],
        sequence_tokens: int,
        buffer: memoryview,
        starts: Sequence[int],
    ) -> list[tuple[int, DamageError]]:
        """Read `sequence_tokens` + 1 tokens of row `rows[i]` of block `blocks[i]` to byte `starts[i]` of `buffer`.

        Returns the numbers i whose block is damaged, with the reason; their bytes are undefined. Raises DataError when
        a shard cannot be read at all.
        """
        damaged = []
        stride = sequence_tokens * self.manifest.item_bytes
        num_bytes = stride + self.manifest.item_bytes
        open_block, preadv = self._open, os.preadv  # looked up once: this loop is where the loader spends its time
        for number, (block, row, start) in enumerate(zip(blocks, rows, starts, strict=True)):
            opened = open_block(block)
            if isinstance(opened, DamageError):
                damaged.append((number, opened))
                continue
            first = row * stride
            if opened.data is not None:
                buffer[start : start + num_bytes] = opened.data[first : first + num_bytes]
                continue
            try:
                found = preadv(opened.file.descriptor, (buffer[start : start + num_bytes],), opened.offset + first)
            except OSError as error:
                raise unreadable(opened.file.where, error) from error
            if found != num_bytes:
                damaged.append((number, opened.file.cut_off(opened.offset + first, num_bytes, found)))
        return damaged

    def block(self, block: int) -> TokenArray:
        """Return all tokens of a block, 1-D. Raises DataError if it is damaged, IndexError if there is none."""
        opened = self._open(block)
        if isinstance(opened, DamageError):
            raise DataError.many(opened.problems)
        key = self._key(block)
        tokens: TokenArray = np.empty(key.num_bytes // self.manifest.item_bytes, self.manifest.dtype)
        opened.file.read_into(tokens.data.cast("B"), opened.offset)
        return tokens

    def sequence(self, block: int, row: int, sequence_tokens: int) -> TokenArray:
        """Return the `sequence_tokens` + 1 tokens of a row of a block, 1-D. Errors as `block`."""
        shard, inside, _ = self.shard_of(block)
        if row < 0 or (row + 1) * sequence_tokens >= block_place(self.manifest, shard, inside)[1]:
            raise IndexError(f"block {block} has no row {row} of {sequence_tokens} tokens")
        tokens: TokenArray = np.empty(sequence_tokens + 1, self.manifest.dtype)
        for _, error in self.read_rows([block], [row], sequence_tokens, tokens.data.cast("B"), [0]):
            raise DataError.many(error.problems)
        return tokens

    def request(self, blocks: Iterable[int]) -> None:
        """Fetch blocks that will be read soon in the background, if they lie on a server."""
        if self.is_remote:
            self._fetcher.request(blocks)

    def close(self) -> None:
        """Stop fetching in the background."""
        self._fetcher.close()

    def shard_of(self, block: int) -> tuple[ShardInfo, int, int]:
        """Return the shard of a block, its number in the shard, and the offset of its tokens."""
        if not 0 <= block < self.num_blocks:
            raise IndexError(f"no block {block} among {self.num_blocks}")
        number = int(np.searchsorted(self._first_blocks, block, side="right")) - 1
        shard, inside = self._shards[number], block - int(self._first_blocks[number])
        return shard, inside, block_place(self.manifest, shard, inside)[0]

    def _key(self, block: int) -> BlockKey:
        shard, inside, offset = self.shard_of(block)
        digests = self._index(shard)
        num_bytes = block_place(self.manifest, shard, inside)[1] * self.manifest.item_bytes
        where = f"{self.storage.where(shard.name)}, member {block:08d}.npy, offset {offset}"
        return BlockKey(shard, inside, offset, num_bytes, lambda data: self._check(data, int(digests[inside]), where))

    def _open_block(self, block: int) -> OpenBlock | DamageError:
        try:
            return self._blocks.open(self._key(block))
        except DamageError as error:
            return error  # kept as the blocks are: what is damaged stays so

    def _check(self, data: Buffer, expected: int, where: str) -> None:
        import xxhash

        found = xxhash.xxh3_64_intdigest(data)
        if found != expected:
            raise DamageError.at(
                where,
                found=f"tokens with the XXH3 {found:016x}",
                allowed=f"the index says {expected:016x}",
                remedy="The file is damaged: copy it again from where the data set was built.",
            )
        largest, vocab_size = int(np.frombuffer(data, self.manifest.dtype).max()), self.manifest.tokenizer.vocab_size
        if largest >= vocab_size:
            raise DamageError.at(
                where,
                found=f"the token id {largest}",
                allowed=f"ids are below {vocab_size}, the size of the tokenizer",
                remedy="Build the data set again with the tokenizer that belongs to it.",
            )

    def _read_index(self, shard: ShardInfo) -> npt.NDArray[np.uint64]:
        where = self.storage.where(shard.index_name)

        def check(data: Buffer) -> None:
            found = hashlib.sha256(data).hexdigest()
            if self.manifest.has_index_hashes and found != shard.index_sha256:
                raise _index_error(where, f"the SHA-256 {found}", f"the manifest says {shard.index_sha256}")

        content = self._blocks.index(shard, check)
        try:
            index = json.loads(content)
            kind = (index["version"], index["dtype"])
            layout = [(offset, num_tokens) for offset, num_tokens, _ in index["blocks"]]
            digests = np.array([int(digest, 16) for *_, digest in index["blocks"]], dtype=np.uint64)
        except (ValueError, KeyError, TypeError) as error:
            raise _index_error(where, f"a file that is no index ({error})", "a whole index file") from error
        expected = [block_place(self.manifest, shard, number) for number in range(shard.num_blocks)]
        if kind != (INDEX_VERSION, self.manifest.dtype) or layout != expected:
            raise _index_error(where, "another layout than the manifest", f"it is the index of {shard.name}")
        return digests


def _index_error(where: str, found: str, allowed: str) -> DamageError:
    return DamageError.at(
        where, found=found, allowed=allowed, remedy="Copy it again from where the data set was built."
    )


@lru_cache(1)
def _raise_file_limit() -> int:
    """Raise this process's soft limit of open files if it is low and may be; return what it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _WANTED_FILES if soft == resource.RLIM_INFINITY else soft
