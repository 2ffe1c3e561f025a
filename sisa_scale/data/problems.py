"""What the operating system refuses about a file of a data set, in our words: a full disk, no permission, ..."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sisa_scale.errors import DataError
from sisa_scale.files import refusal_of


@contextmanager
def os_errors(path: Path | str) -> Iterator[None]:
    """Turn an OSError into a DataError about the file that it names, or else about `path`."""
    try:
        yield
    except OSError as error:
        found, remedy = refusal_of(error)
        raise DataError.at(
            error.filename if isinstance(error.filename, str) else path,
            found=found,
            allowed="inputs can be read, and the directory of the data set can be written",
            remedy=f"{remedy}, then run the same command again; what is done is not done again.",
        ) from error
