"""What the operating system refuses about a file of a data set, in our words: a full disk, no permission, ..."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sisa_scale.errors import DataError

# errno -> (what was found, what to do)
_WORDS = {
    errno.ENOSPC: ("a full disk", "Free space on it"),
    errno.EDQUOT: ("a disk quota that is used up", "Free space or raise the quota"),
    errno.EFBIG: ("a file larger than the file system or a limit (`ulimit -f`) allows", "Raise the limit"),
    errno.EROFS: ("a read-only file system", "Make it writable, or choose another place"),
    errno.EACCES: ("no permission", "Correct its owner or mode (`ls -ld` shows them)"),
    errno.EPERM: ("no permission", "Correct its owner or mode (`ls -ld` shows them)"),
    errno.ENOTDIR: ("a file where a directory should be", "Choose another place, or move that file away"),
    errno.EEXIST: ("a file where a directory should be", "Choose another place, or move that file away"),
    errno.EISDIR: ("a directory where a file should be", "Choose another place, or move that directory away"),
    errno.ENOENT: ("no such file or directory", "Restore it"),
    errno.EMFILE: ("too many open files", "Raise the limit (`ulimit -n`)"),
    errno.EIO: ("a device that fails to read or write", "Check the disk"),
}


@contextmanager
def os_errors(path: Path | str) -> Iterator[None]:
    """Turn an OSError into a DataError about the file that it names, or else about `path`."""
    try:
        yield
    except OSError as error:
        unknown = f"a file system that refuses it ({error})", "Check the disk or the server"
        found, remedy = _WORDS.get(error.errno or 0, unknown)
        raise DataError.at(
            error.filename if isinstance(error.filename, str) else path,
            found=found,
            allowed="inputs can be read, and the directory of the data set can be written",
            remedy=f"{remedy}, then run the same command again; what is done is not done again.",
        ) from error
