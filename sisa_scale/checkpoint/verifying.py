"""Finding the newest checkpoint that is sound, by all ranks together."""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sisa_scale.checkpoint.manifest import FileInfo, Manifest, read_manifest, verify_files
from sisa_scale.checkpoint.problems import DamageError, unreadable
from sisa_scale.checkpoint.storage import RemotePlace, open_place
from sisa_scale.checkpoint.store import CheckpointStore, Location
from sisa_scale.errors import CheckpointError, Problem
from sisa_scale.faults import fault_point


@dataclass(frozen=True, slots=True)
class Damaged:
    """A checkpoint that was passed over: what is wrong with it."""

    step: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """The newest sound checkpoint, its files in a local directory, and the damaged ones that are newer."""

    directory: Path
    manifest: Manifest
    damaged: tuple[Damaged, ...]


class Copies:
    """Where the files of checkpoints can be read: in their directory, or in a local copy of a remote one.

    share: (i, n), this rank is the i-th of n that see the same files and share the work; name: of the folder of local
    copies, the same for those n and for no one else; None makes a new one.
    """

    def __init__(self, share: tuple[int, int] = (0, 1), name: str | None = None) -> None:
        self.share = share
        self._parent = Path(tempfile.gettempdir()) / name if name is not None else None

    def fetch(self, location: Location, manifest: Manifest) -> Path:
        """Verify this rank's share of the files of a checkpoint; returns the directory to read them in.

        Raises DamageError when they are not what was written, CheckpointError when they cannot be read at this time.
        """
        files = manifest.files[self.share[0] :: self.share[1]]
        place = open_place(location)
        directory = self._download(place, files) if isinstance(place, RemotePlace) else place.root
        verify_files(directory, files)
        return directory

    @staticmethod
    def remove(pattern: str) -> None:
        """Remove the folders of local copies that killed processes left."""
        for leftover in Path(tempfile.gettempdir()).glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)

    def close(self) -> None:
        """Remove local copies."""
        if self._parent is not None:
            shutil.rmtree(self._parent, ignore_errors=True)

    def _download(self, place: RemotePlace, files: tuple[FileInfo, ...]) -> Path:
        if self._parent is None:
            self._parent = Path(tempfile.mkdtemp(prefix="sisa-scale-"))
        directory = self._parent / place.url.rsplit("/", 1)[-1]
        directory.mkdir(parents=True, exist_ok=True)
        for info in files:
            try:
                place.download(info.name, directory / info.name)
            except FileNotFoundError:
                continue  # verification says so
            except OSError as error:
                raise unreadable(place.location(info.name), error) from error
        return directory


def verified(location: Location, manifest: Manifest) -> Path:
    """Verify a checkpoint; returns the directory to read it in, until this process ends. Errors as `Copies.fetch`."""
    copies = Copies()
    atexit.register(copies.close)
    return copies.fetch(location, manifest)


def chosen(store: CheckpointStore, step: int) -> tuple[Location, Manifest]:
    """Return the checkpoint of one step, after reading and comparing all of its files.

    Raises CheckpointError, which lists the steps that have one, when it is not there or damaged.
    """
    others = [str(other) for other in store.steps() if other != step]
    there = f"there are checkpoints of the steps {', '.join(others)}" if others else "there is no other"
    if step not in store.steps():
        raise CheckpointError.at(
            store.place.location(""),
            found=f"no checkpoint of step {step}",
            allowed=there if others else "there is none at all",
            remedy="Choose one of them." if others else "Train until the first checkpoint.",
        )
    try:
        manifest = read_manifest(store.location(step))
        verified(store.location(step), manifest)
    except DamageError as error:
        remedy = "Choose another step, or resume from the newest." if others else "Restore it from a copy."
        last = Problem(str(store.location(step)), "a damaged checkpoint", there, remedy)
        raise CheckpointError.many([*error.problems, last]) from error
    return store.location(step), manifest


def newest_sound(store: CheckpointStore, copies: Copies, gather: Callable[[Any], list[Any]]) -> Found | None:
    """Return the newest checkpoint whose manifest and files verify on all ranks, or None when there is none at all.

    Nothing is changed. Raises CheckpointError on every rank when all are damaged, listing what is wrong with each, and
    when one cannot be read at this time or is of another version.
    """
    damaged: list[Damaged] = []
    for step in gather(store.candidates())[0]:
        fault_point("checkpoint.load.before_verify")
        result = _verify(store.location(step), copies)
        results = gather(result if isinstance(result, CheckpointError) else None)
        fault_point("checkpoint.load.after_verify")
        errors = [error for error in results if error is not None]
        refusals = [error for error in errors if not isinstance(error, DamageError)]
        if refusals:
            raise refusals[0]
        if not errors and not isinstance(result, CheckpointError):
            return Found(*result, tuple(damaged))
        problems = tuple(dict.fromkeys(problem for error in errors for problem in error.problems))
        damaged.append(Damaged(step, problems))
    if damaged:
        last = Problem(
            str(store.place.location("")),
            f"{len(damaged)} checkpoints, all of them damaged",
            "a run goes on from a checkpoint that is what was written",
            "Restore one from a copy, or begin a new run; nothing was changed.",
        )
        raise CheckpointError.many([*(p for each in damaged for p in each.problems), last])
    return None


def _verify(location: Location, copies: Copies) -> tuple[Path, Manifest] | CheckpointError:
    try:
        manifest = read_manifest(location)
        return copies.fetch(location, manifest), manifest
    except CheckpointError as error:
        return error
