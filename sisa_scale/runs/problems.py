"""What the operating system refuses about a file of a run, in our words: a full disk, no permission and the like."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sisa_scale.errors import CheckpointError
from sisa_scale.files import refusal_of


class RunDirectoryError(CheckpointError):
    """A file of a run directory that cannot be read or written; exit code 4, as for a checkpoint."""


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn an OSError about `path` into a RunDirectoryError."""
    try:
        yield
    except OSError as error:
        found, remedy = refusal_of(error)
        raise RunDirectoryError.at(
            path,
            found=found,
            allowed="a run reads and writes every file of its directory",
            remedy=f"{remedy}, then run the same command again, or `sisa-scale resume` if the run had begun.",
        ) from error
