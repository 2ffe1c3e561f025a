"""The directory beside a data set in which it is built, and from which a build that was killed goes on."""

import fcntl
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sisa_scale.errors import DataError
from sisa_scale.files import fsync_directory

_LOCK_NAME = "lock"


class Staging:
    """Where the results of units lie (`units`), and the data set while it is put together (`dataset`)."""

    def __init__(self, path: Path, out: Path) -> None:
        self.path, self._out = path, out
        self.units, self.dataset = path / "units", path / "dataset"

    @property
    def has_results(self) -> bool:
        """Whether the work on a unit is done."""
        return any(self.units.glob("*.documents"))

    def new_dataset(self) -> Path:
        """Return an empty directory for the data set."""
        shutil.rmtree(self.dataset, ignore_errors=True)
        self.dataset.mkdir()
        return self.dataset

    def scratch(self) -> Path:
        """Return an empty directory for what is needed in between."""
        path = self.path / "scratch"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def publish(self) -> None:
        """Give the data set its name."""
        fsync_directory(self.dataset)
        self.dataset.rename(self._out)
        fsync_directory(self._out.parent)


def staging_path(out: Path) -> Path:
    """Return where a build that can be continued keeps what is done."""
    return out.parent / f".{out.name}.building"


@contextmanager
def open_staging(out: Path, *, is_resumable: bool) -> Iterator[Staging]:
    """Yield the staging directory of a build; it vanishes when the build is complete.

    A resumable one survives errors, interrupts and kills once a unit is done. Results carry the settings and inputs
    they depend on in their names, so a build with others begins anew beside them. Raises DataError while another
    process builds there.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    path = staging_path(out) if is_resumable else out.parent / f".{out.name}.{secrets.token_hex(4)}.tmp"
    path.mkdir(exist_ok=is_resumable)
    with (path / _LOCK_NAME).open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError.at(
                path,
                found="another build at work",
                allowed="one process builds a data set",
                remedy="Wait for it, or choose another --out.",
            ) from error
        is_complete = False
        staging = Staging(path, out)
        try:
            staging.units.mkdir(exist_ok=True)
            yield staging
            is_complete = True
        finally:
            if is_complete or not (is_resumable and staging.has_results):
                shutil.rmtree(path, ignore_errors=True)
