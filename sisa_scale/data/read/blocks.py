"""Opening one block: from a shard in a directory, or from a server through the cache of this node.

A remote block is one range request of its own. Blocks are drawn from all over the corpus, so fetching whole shards
would read a shard for every block of the first batch; a block of a megabyte keeps one connection busy enough for
millions of tokens a second, and a single row would not.
"""

import os
import tempfile
from pathlib import Path
from threading import RLock
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np

from sisa_scale.data.manifest import Manifest, ShardInfo
from sisa_scale.data.read.buffers import ArrayPool
from sisa_scale.data.read.cache import BlockCache
from sisa_scale.data.read.storage import Check, DamageError, LocalStorage, RemoteStorage, unreadable
from sisa_scale.data.shards import block_place
from sisa_scale.errors import ConfigError, DataError
from sisa_scale.files import sha256_file

_MIN_CACHED_BLOCKS = 8


class BlockKey(NamedTuple):
    """A block: its shard, its number in it, where its tokens lie, and what they must be."""

    shard: ShardInfo
    number: int
    offset: int
    num_bytes: int
    check: Check


class OpenFile:
    """A file descriptor that is closed with its last reader."""

    def __init__(self, descriptor: int, where: str) -> None:
        self.descriptor, self.where = descriptor, where

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer`. Raises DamageError where the file ends before, DataError if the disk fails."""
        try:
            found = os.preadv(self.descriptor, (buffer,), offset)
        except OSError as error:
            raise unreadable(self.where, error) from error
        if found != len(buffer):
            raise self.cut_off(offset, len(buffer), found)

    def cut_off(self, offset: int, num_bytes: int, found: int) -> DamageError:
        """Return the error of a read that the end of the file cut short."""
        return DamageError.at(
            f"{self.where}, offset {offset}",
            found=f"{found} bytes",
            allowed=f"{num_bytes} bytes lie there",
            remedy="The file was cut off while it was open: copy it again from where the data set was built.",
        )

    def __del__(self) -> None:
        os.close(self.descriptor)


class Room:
    """The memory that open blocks may hold, in bytes, and where they get it from."""

    def __init__(self, num_bytes: int, block_bytes: int) -> None:
        self._free, self._lock = num_bytes, RLock()
        self.pool = ArrayPool(num_bytes // block_bytes + 8)

    def take(self, num_bytes: int) -> bool:
        """Reserve memory; return whether there was room."""
        with self._lock:
            is_free = num_bytes <= self._free
            self._free -= num_bytes if is_free else 0
            return is_free

    def give_back(self, num_bytes: int) -> None:
        """End a reservation."""
        with self._lock:
            self._free += num_bytes


class OpenBlock:
    """A block whose bytes were checked; opening raises what reading or `check` raises.

    data: those very bytes, while there is room for them; else None, and they begin at `offset` of the file.
    """

    __slots__ = ("_room", "data", "file", "offset")

    def __init__(self, file: OpenFile, offset: int, num_bytes: int, check: Check, room: Room) -> None:
        self.file, self.offset, self._room = file, offset, room
        self.data: memoryview | None = None
        data = room.pool.take((num_bytes,), np.uint8).data
        file.read_into(data, offset)
        check(data)
        if room.take(num_bytes):
            self.data = data

    def __del__(self) -> None:
        if self.data is not None:
            self._room.give_back(len(self.data))


class LocalBlocks:
    """The blocks of a data set in a directory."""

    max_open: int | None = None

    def __init__(self, storage: LocalStorage, manifest: Manifest, room: Room) -> None:
        self._storage, self._has_index_hashes, self._room = storage, manifest.has_index_hashes, room
        self._files: WeakValueDictionary[str, OpenFile] = WeakValueDictionary()

    def index(self, shard: ShardInfo, check: Check) -> bytes:
        """Return the checked bytes of the index of a shard."""
        if not self._has_index_hashes:
            self._check_whole(shard)
        return self._storage.read(shard.index_name, check)

    def open(self, key: BlockKey) -> OpenBlock:
        """Open and check a block. Raises DamageError for wrong bytes, DataError if the file cannot be read."""
        file = self._files.get(key.shard.name) or self._open_shard(key.shard)
        return OpenBlock(file, key.offset, key.num_bytes, key.check, self._room)

    def _open_shard(self, shard: ShardInfo) -> OpenFile:
        path = self._storage.directory / shard.name
        try:
            file = OpenFile(os.open(path, os.O_RDONLY), str(path))
            num_bytes = os.fstat(file.descriptor).st_size
        except OSError as error:
            raise unreadable(path, error) from error
        if num_bytes != shard.num_bytes:
            raise DamageError.at(
                path,
                found=f"{num_bytes} bytes",
                allowed=f"the manifest says {shard.num_bytes} bytes",
                remedy="Copy it again from where the data set was built.",
            )
        self._files[shard.name] = file
        return file

    def _check_whole(self, shard: ShardInfo) -> None:
        path = self._storage.directory / shard.name
        try:
            found = sha256_file(path)
        except OSError as error:
            raise unreadable(path, error) from error
        if found != shard.sha256:
            raise DamageError.at(
                path,
                found=f"the SHA-256 {found}",
                allowed=f"the manifest says {shard.sha256}",
                remedy="Copy it again from where the data set was built.",
            )


class RemoteBlocks:
    """The blocks of a data set on a server, each fetched once by a node."""

    def __init__(self, storage: RemoteStorage, manifest: Manifest, cache: BlockCache, room: Room) -> None:
        self._storage, self._manifest, self._cache, self._room = storage, manifest, cache, room
        largest = (manifest.block_tokens + 1) * manifest.item_bytes
        if cache.limit_bytes < _MIN_CACHED_BLOCKS * largest:
            raise ConfigError.at(
                "data.cache_bytes",
                found=str(cache.limit_bytes),
                allowed=f"at least {_MIN_CACHED_BLOCKS} blocks of {largest} bytes",
                remedy="Raise it; room for 1024 blocks lets every lane keep its block and fetch the next.",
            )
        if not manifest.has_index_hashes:
            raise DataError.at(
                storage.where("dataset.json"),
                found="a data set of format version 1",
                allowed="data sets on servers are of version 2 or newer",
                remedy="Build it again, or copy it into a directory.",
            )
        self.max_open = max(_MIN_CACHED_BLOCKS // 2, cache.limit_bytes // (2 * largest))

    def index(self, shard: ShardInfo, check: Check) -> bytes:
        """Return the checked bytes of the index of a shard."""
        key = f"{shard.index_sha256}-index"
        with self._cache.fetching(key):
            descriptor = self._cache.open(key)
            if descriptor is not None:
                with os.fdopen(descriptor, "rb") as stream:
                    data = stream.read()
                try:
                    check(data)
                    return data
                except DamageError:
                    self._cache.remove(key)
            data = self._storage.read(shard.index_name, check)
            self._cache.add(key, data)
            return data

    def open(self, key: BlockKey) -> OpenBlock:
        """Open and check a block, fetching it first if this node has not got it. Errors as `LocalBlocks.open`."""
        name = _cache_key(key)
        found = self._open_cached(key, name)
        if found is not None:
            return found
        with self._cache.fetching(name):
            found = self._open_cached(key, name)
            if found is not None:
                return found
            self._cache.remove(name)  # whatever is there is not the block
            data = self._fetch(key)
            self._cache.add(name, data)
        return self._open_cached(key, name) or self._keep(key, data, name)

    def _open_cached(self, key: BlockKey, name: str) -> OpenBlock | None:
        descriptor = self._cache.open(name)
        if descriptor is None:
            return None
        try:
            return OpenBlock(OpenFile(descriptor, name), 0, key.num_bytes, key.check, self._room)
        except DamageError:
            return None

    def _fetch(self, key: BlockKey) -> bytes:
        shard = key.shard
        data = self._storage.read_span(shard.name, key.offset, key.num_bytes, shard.num_bytes, key.check)
        if len(data) == key.num_bytes:
            return data
        for number in range(shard.num_blocks):
            if number != key.number:  # the server gives whole files only, so keep all that came
                offset, num_tokens = block_place(self._manifest, shard, number)
                num_bytes = num_tokens * self._manifest.item_bytes
                self._cache.add(_cache_key(key._replace(number=number)), data[offset : offset + num_bytes])
        return data[key.offset : key.offset + key.num_bytes]

    def _keep(self, key: BlockKey, data: bytes, name: str) -> OpenBlock:
        """Hold a block for which the cache has no room, as its files are all in use."""
        with tempfile.TemporaryFile() as stream:
            stream.write(data)
            stream.flush()
            file = OpenFile(os.dup(stream.fileno()), name)
        return OpenBlock(file, 0, key.num_bytes, key.check, self._room)


Blocks = LocalBlocks | RemoteBlocks


def _cache_key(key: BlockKey) -> str:
    return f"{key.shard.sha256}-{key.number:06d}"


def default_cache_directory() -> Path:
    """Return where the cache lies unless the config says otherwise."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sisa-scale" / "blocks"
