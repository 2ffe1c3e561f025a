"""Files that are either whole or absent: write to a temporary name, fsync, rename."""

import errno
import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_CHUNK_BYTES = 1 << 20
_ABANDONED_SECONDS = 3600.0
_TEMPORARY = re.compile(r"(?P<host>.+)\.(?P<pid>\d+)\.tmp$")


# errno -> (what was found, what to do)
_REFUSALS = {
    errno.ENOSPC: ("a full disk", "Free space on it"),
    errno.EDQUOT: ("a disk quota that is used up", "Free space or raise the quota"),
    errno.EFBIG: ("a file larger than the file system or a limit (`ulimit -f`) allows", "Raise the limit"),
    errno.EROFS: ("a read-only file system", "Make it writable"),
    errno.EACCES: ("no permission", "Correct its owner or mode (`ls -ld` shows them)"),
    errno.EPERM: ("no permission", "Correct its owner or mode (`ls -ld` shows them)"),
    errno.ENOTDIR: ("a file where a directory should be", "Move that file away"),
    errno.EEXIST: ("a file where a directory should be", "Move that file away"),
    errno.EISDIR: ("a directory where a file should be", "Move that directory away"),
    errno.ENOENT: ("no such file or directory", "Restore it"),
    errno.EMFILE: ("too many open files", "Raise the limit (`ulimit -n`)"),
    errno.EIO: ("a device that fails to read or write", "Check the disk"),
}


def refusal_of(error: OSError) -> tuple[str, str]:
    """Return what the operating system refuses, in our words: what was found, and what to do."""
    unknown = f"a file system that refuses it ({error})", "Check the disk or the server"
    return _REFUSALS.get(error.errno or 0, unknown)


def fsync_directory(path: Path) -> None:
    """Make renames inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears under `path` only when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        fsync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(directory: Path) -> None:
    """Remove the temporary files of `atomic_writer` whose process was killed: on this host, or an hour ago anywhere."""
    for path in directory.glob(".*.tmp"):
        match = _TEMPORARY.search(path.name)
        if match is None or not path.is_file():
            continue
        is_dead = match["host"].endswith(f".{platform.node()}") and not Path(f"/proc/{match['pid']}").exists()
        if is_dead or time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_writer(path) as stream:
        stream.write(text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_writer(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
