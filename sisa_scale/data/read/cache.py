"""A bounded directory of remote blocks that the processes of a node share.

Every file is the content of one key, put in place by a rename. Its reader holds a shared lock on it while it is open;
eviction, least recently used first, takes only files without one. A ledger file holds the sum of all sizes and is
corrected at every eviction. What a cached file holds is checked by the reader, so no file is synced to disk, and one
that was cut off or changed is fetched again.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from zlib import crc32

_FREE_SHARE = 0.1  # of the cache, after an eviction
_NUM_LOCKS = 512
_FOLDER_LETTERS = 2  # of the key; other folders are not part of the cache
_ABANDONED_SECONDS = 3600.0


class BlockCache:
    """Files by key in `directory`, together at most `limit_bytes`."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self.directory, self.limit_bytes = directory, limit_bytes
        (directory / "locks").mkdir(parents=True, exist_ok=True)
        self._ledger = directory / "ledger"

    def open(self, key: str) -> int | None:
        """Return a descriptor of the file of `key`, which keeps it until it is closed; None if there is none."""
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not os.fstat(descriptor).st_nlink:  # evicted between the two calls
            os.close(descriptor)
            return None
        os.utime(descriptor)
        return descriptor

    def add(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`, if there is room for it beside what is in use."""
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with self._locked("ledger"):
            if path.exists():
                return
            total = self._total()
            if total + len(data) > self.limit_bytes:
                total = self._evict(len(data))
            if total + len(data) <= self.limit_bytes:
                temporary.write_bytes(data)
                temporary.replace(path)
                total += len(data)
            self._ledger.write_text(str(total))

    def remove(self, key: str) -> None:
        """Forget `key`."""
        with self._locked("ledger"):
            try:
                size = self._path(key).stat().st_size
                self._path(key).unlink()
            except FileNotFoundError:
                return
            self._ledger.write_text(str(self._total() - size))

    def fetching(self, key: str) -> AbstractContextManager[None]:
        """Hold the lock under which one process or thread of the node fetches `key`."""
        return self._locked(f"{crc32(key.encode()) % _NUM_LOCKS:03d}")

    def _path(self, key: str) -> Path:
        return self.directory / key[:_FOLDER_LETTERS] / key

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold a lock that threads and processes of this node respect; it ends with its holder."""
        descriptor = os.open(self.directory / "locks" / name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _total(self) -> int:
        try:
            return int(self._ledger.read_text())
        except (FileNotFoundError, ValueError):  # new, or torn by a crash
            return sum(size for _, size, _ in self._scan())

    def _scan(self) -> list[tuple[float, int, Path]]:
        files = []
        for folder in os.scandir(self.directory):
            if len(folder.name) != _FOLDER_LETTERS:
                continue
            for entry in os.scandir(folder):
                status = entry.stat()
                if not entry.name.startswith("."):
                    files.append((status.st_mtime, status.st_size, Path(entry.path)))
                elif time.time() - status.st_mtime > _ABANDONED_SECONDS:
                    Path(entry.path).unlink(missing_ok=True)
        return sorted(files)

    def _evict(self, num_bytes: int) -> int:
        """Remove unused files until `num_bytes` and a reserve fit; return the sum of what is left."""
        files = self._scan()
        total = sum(size for _, size, _ in files)
        goal = max(0, min(int(self.limit_bytes * (1 - _FREE_SHARE)), self.limit_bytes - num_bytes))
        for _, size, path in files:
            if total <= goal:
                break
            if _remove_unused(path):
                total -= size
        return total


def _remove_unused(path: Path) -> bool:
    """Remove a file unless someone has it open; return whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
