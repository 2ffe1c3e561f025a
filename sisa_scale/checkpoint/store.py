"""The checkpoints of a run by step: naming, finding, committing, removing."""

import re
import uuid
from pathlib import Path

from sisa_scale.checkpoint.manifest import Manifest, read_manifest
from sisa_scale.checkpoint.problems import WriterError, refused
from sisa_scale.checkpoint.storage import MANIFEST_NAME, LocalPlace, open_place
from sisa_scale.data.read.storage import is_remote
from sisa_scale.errors import CheckpointError, Problem
from sisa_scale.faults import fault_point
from sisa_scale.runs.layout import CHECKPOINTS, holds_run
from sisa_scale.runs.recipe import own_settings

_NAME = re.compile(r"step_(\d{8,})")
_WRITER = "writer"

Location = Path | str


class CheckpointStore:
    """Checkpoints of one run. A checkpoint is written under a name of the writer's and appears whole.

    directory: path or URL that holds them; None is `checkpoints/` in the run directory.
    """

    def __init__(self, run_dir: Path, directory: str | None = None) -> None:
        self.place = open_place(directory or run_dir / CHECKPOINTS)
        self.is_remote = not isinstance(self.place, LocalPlace)
        self.writer = ""

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step lies, in a directory."""
        return Path(self.location(step))

    def location(self, step: int) -> Location:
        """Return the path or URL of the checkpoint of a step."""
        return self.place.location(_name(step))

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, ascending."""
        return sorted(step for step in self._found() if self.place.has(f"{_name(step)}/{MANIFEST_NAME}"))

    def candidates(self) -> list[int]:
        """Return the steps to try, newest first: in a directory also those whose manifest has been lost."""
        return sorted(self.steps() if self.is_remote else self._found(), reverse=True)

    def newest(self) -> Location | None:
        """Return the newest checkpoint, or None."""
        steps = self.steps()
        return self.location(steps[-1]) if steps else None

    def newest_readable(self) -> tuple[Location, Manifest] | None:
        """Return the newest checkpoint whose manifest is sound, or None where there is no checkpoint at all.

        Its other files are not looked at. Raises CheckpointError when no manifest is sound.
        """
        problems: list[Problem] = []
        for step in reversed(self.steps()):
            try:
                return self.location(step), read_manifest(self.location(step))
            except CheckpointError as error:
                problems += error.problems
        if problems:
            raise CheckpointError.many(problems)
        return None

    def claim(self) -> str:
        """Become the only writer and remove what earlier ones left; returns a name to share with the other ranks.

        A writer of an earlier attempt that still lives cannot commit from here on.
        """
        self.writer = uuid.uuid4().hex[:12]
        try:
            self.place.write(_WRITER, self.writer + "\n")
            self.place.clear()
        except OSError as error:
            raise refused(self.place.location(""), error) from error
        return self.writer

    def check_writer(self) -> None:
        """Raise CheckpointError when another attempt has claimed the store."""
        try:
            found = self.place.read(_WRITER).decode().strip()
        except FileNotFoundError:
            found = ""
        if not self.writer or found != self.writer:
            raise WriterError.at(
                self.place.location(_WRITER),
                found=f"writer {found or 'none'}",
                allowed=f"this attempt, {self.writer or 'which never claimed the checkpoints'}, may write no more",
                remedy="A newer attempt of the run has taken over; end this process.",
            )

    def part_name(self, step: int, rank: int) -> str:
        """Return what a rank's file is called until the checkpoint exists."""
        return self.place.part_name(_name(step), self.writer, rank)

    def commit(self, step: int, manifest: Manifest) -> Location:
        """Make a checkpoint whose parts are all durable exist; one of the same step is replaced."""
        fault_point("checkpoint.manifest.before_write")
        self.place.publish(_name(step), self.writer, manifest.to_text(), self.check_writer)
        return self.location(step)

    def abandon(self, step: int) -> None:
        """Remove what this writer has written for a step."""
        self.place.abandon(_name(step), self.writer)

    def remove(self, step: int) -> None:
        """Remove a checkpoint for good."""
        self.place.remove(_name(step))

    def set_aside(self, step: int) -> str:
        """Rename a damaged checkpoint so that it no longer counts; returns its new name."""
        return self.place.set_aside(_name(step))

    def archive(self, step: int) -> str:
        """Move a sound checkpoint out of the way, as it is; returns where it lies now."""
        return self.place.archive(_name(step))

    def _found(self) -> list[int]:
        return [int(match[1]) for match in map(_NAME.fullmatch, self.place.names()) if match]


def find_checkpoint(where: Location, step: int | None = None) -> tuple[Location, Manifest]:
    """Return the checkpoint that a path or URL names: itself, or that of a run directory, the newest or that of `step`.

    Raises CheckpointError when there is none or its manifest is damaged.
    """
    if open_place(where).has(MANIFEST_NAME):
        return where, read_manifest(where)
    store = None if is_remote(where) else store_in(Path(where))
    newest = None if store is None else store.newest()
    if store is not None and step in store.steps():
        newest = store.location(step)
    if newest is None:
        raise CheckpointError.at(
            where,
            found="no finished checkpoint",
            allowed="a run directory with checkpoints, or one checkpoint",
            remedy="Check the path, or train until the first checkpoint. A checkpoint of another form (safetensors, "
            f"huggingface, official, deepspeed-universal) is converted: sisa-scale convert {where} DST --to native.",
        )
    return newest, read_manifest(newest)


def store_in(run_dir: Path) -> CheckpointStore:
    """Return the checkpoints of a run directory, wherever its config.yaml puts them."""
    setting = own_settings(run_dir).get("checkpoint.directory") if holds_run(run_dir) else None
    return CheckpointStore(run_dir, setting.value if setting is not None else None)


def _name(step: int) -> str:
    return f"step_{step:08d}"
