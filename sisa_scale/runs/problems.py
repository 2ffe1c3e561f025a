"""What the operating system refuses about a file of a run, in our words: a full disk, no permission and the like."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sisa_scale.errors import CheckpointError

# errno -> (what was found, what to do)
_WORDS = {
    errno.ENOSPC: ("a full disk", "Free space on it"),
    errno.EDQUOT: ("a disk quota that is used up", "Free space or raise the quota"),
    errno.EROFS: ("a read-only file system", "Make it writable"),
    errno.EACCES: ("no permission", "Correct its owner or mode (`ls -ld` shows them)"),
    errno.EPERM: ("no permission", "Correct its owner or mode (`ls -ld` shows them)"),
    errno.ENOTDIR: ("a file where a directory should be", "Move that file away"),
    errno.EEXIST: ("a file where a directory should be", "Move that file away"),
    errno.EISDIR: ("a directory where a file should be", "Move that directory away"),
    errno.ENOENT: ("no such file or directory", "Restore it"),
}


class RunDirectoryError(CheckpointError):
    """A file of a run directory that cannot be read or written; exit code 4, as for a checkpoint."""


def words(error: OSError) -> tuple[str, str]:
    """Return what was found and what to do."""
    return _WORDS.get(error.errno or 0, (f"a file system that refuses it ({error})", "Check the disk or the server"))


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn an OSError about `path` into a RunDirectoryError."""
    try:
        yield
    except OSError as error:
        found, remedy = words(error)
        raise RunDirectoryError.at(
            path,
            found=found,
            allowed="a run reads and writes every file of its directory",
            remedy=f"{remedy}, then run the same command again, or `sisa-scale resume` if the run had begun.",
        ) from error
