"""The directory beside a data set in which it is built, and from which a build that was killed goes on."""

import fcntl
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sisa_scale.errors import ConfigError, DataError
from sisa_scale.files import fsync_directory, write_json

_PLAN_NAME, _LOCK_NAME = "plan.json", "lock"


class Staging:
    """Where the results of units lie (`units`), and the data set while it is put together (`dataset`)."""

    def __init__(self, path: Path, out: Path) -> None:
        self.path, self._out = path, out
        self.units, self.dataset = path / "units", path / "dataset"

    def agree(self, settings: Mapping[str, Any]) -> None:
        """Note the settings of this build, or compare them with those noted before.

        Raises ConfigError when what lies here was begun with others.
        """
        path = self.path / _PLAN_NAME
        wanted = json.loads(json.dumps(settings))
        if not path.exists():
            write_json(path, wanted)
            return
        noted = json.loads(path.read_bytes())
        changed = [key for key in sorted({*noted, *wanted}) if noted.get(key) != wanted.get(key)]
        if changed:
            raise ConfigError.at(
                self._out,
                found=", ".join(f"{key} {wanted.get(key)!r}, before {noted.get(key)!r}" for key in changed),
                allowed="a build is continued with the settings it was begun with",
                remedy=f"Give the same settings, or begin anew: rm -r {self.path}",
            )

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
    return out.with_name(f".{out.name}.building")


@contextmanager
def open_staging(out: Path, *, is_resumable: bool) -> Iterator[Staging]:
    """Yield the staging directory of a build; it vanishes when the build is complete.

    A resumable one survives errors, interrupts and kills. Raises DataError while another process builds there.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    path = staging_path(out) if is_resumable else out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
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
        try:
            staging = Staging(path, out)
            staging.units.mkdir(exist_ok=True)
            yield staging
            is_complete = True
        finally:
            if is_complete or not is_resumable:
                shutil.rmtree(path, ignore_errors=True)
