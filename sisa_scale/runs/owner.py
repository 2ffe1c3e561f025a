"""`owner.json` and `alive`: which life of a run may write to it, and whether that life goes on.

A life is a command that drives workers, or the main worker of a run without one. It claims the run, gives a sign of
life every second, and gives the run back at its end. While it lives, no other may begin; one that takes the run over
by force fences it: it finds another token in `owner.json`, and ends itself without writing to the run again.

On the owner's host its process decides whether it lives. From another host it lives if its sign changes while one
looks, whatever the clocks say. Both files are written in place: on NFS a renamed file may stay invisible for a minute.
"""

import contextlib
import json
import platform
import secrets
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from sisa_scale.errors import ConfigError, TrainingError
from sisa_scale.runs.diagnostics import Diagnostics
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.layout import ALIVE, OWNER
from sisa_scale.runs.problems import file_errors
from sisa_scale.runs.processes import Identity
from sisa_scale.runs.provenance import now

_BEAT_SECONDS = 1.0
# For a life on another host: some signs of life, and a file server that takes its time. For one here, time to end: a
# scheduler may start the next while the last one ends.
_WATCH_SECONDS = 4.0
_POLL_SECONDS = 0.2


class FencedError(TrainingError):
    """Another life has taken the run over: this one may write no more."""


@dataclass(frozen=True, slots=True)
class Owner:
    """What `owner.json` says: the token of a life, its process (see Identity), and when it began.

    inode: of the run directory, which a copy of it does not have.
    """

    token: str
    host: str
    pid: int
    started: int | None
    since: str
    inode: int

    @property
    def process(self) -> Identity:
        """The process."""
        return Identity(self.host, self.pid, self.started)


def read_owner(run_dir: Path) -> Owner | None:
    """Return who owns a run; None where nobody does, or the file is half written."""
    try:
        return Owner(**json.loads((run_dir / OWNER).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def is_foreign(run_dir: Path) -> bool:
    """Whether the signs of life in a directory are those of another one: it was copied while that was at work."""
    owner = read_owner(run_dir)
    return owner is not None and owner.inode != run_dir.stat().st_ino


def check_free(run_dir: Path) -> None:
    """Raise ConfigError when another life of the run goes on, which says what lives where since when."""
    owner = read_owner(run_dir)
    if owner is None or not _lives(run_dir, owner):
        return
    raise ConfigError.at(
        run_dir,
        found=f"a life of this run: process {owner.pid} on {owner.host}, since {owner.since}{_doing(run_dir)}",
        allowed="one life at a time writes to a run",
        remedy=f"Wait until it ends; or `touch {run_dir / 'stop'}`, which lets it save and end; or take the run over "
        f"with `sisa-scale resume {run_dir} --take-over` (or `worker`): the other then ends without saving.",
    )


def take_over(run_dir: Path) -> None:
    """Fence the life that owns the run, if there is one; it ends itself at its next step."""
    owner, mine = read_owner(run_dir), Identity.of_this()
    if owner is None or not _lives(run_dir, owner):
        return
    directory = RunDirectory(run_dir)
    directory.event("taken_over", process=f"{mine.host}:{mine.pid}", of=f"{owner.host}:{owner.pid}")
    _write(run_dir, secrets.token_hex(8))
    time.sleep(2 * _BEAT_SECONDS)  # by then it knows
    directory.close_attempt()


def check_fence(run_dir: Path, token: str) -> None:
    """Raise FencedError when another life than that of `token` owns the run."""
    owner = read_owner(run_dir)
    if owner is None or owner.token == token:
        return
    raise FencedError.at(
        run_dir,
        found=f"a run that process {owner.pid} on {owner.host} has taken over since {owner.since}",
        allowed="one life at a time writes to a run",
        remedy="This one has ended without saving. Nothing is to be done.",
    )


def owns(run_dir: Path, token: str) -> bool:
    """Whether the run has not been taken over from the life of `token`."""
    owner = read_owner(run_dir)
    return owner is None or owner.token == token


class Fence:
    """Looks every second whether a life still owns its run, in a thread, while entered."""

    def __init__(self, run_dir: Path, token: str) -> None:
        self.run_dir, self.token = run_dir, token
        self.error: FencedError | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fence", daemon=True)

    def check(self) -> None:
        """Raise FencedError if the run has been taken over."""
        if self.error is not None:
            raise self.error

    def look(self) -> FencedError | None:
        """Look now whether the run has been taken over, not up to a second ago; returns what says so."""
        try:
            check_fence(self.run_dir, self.token)
        except FencedError as error:
            self.error = error
        return self.error

    def __enter__(self) -> Self:
        check_fence(self.run_dir, self.token)
        self._thread.start()
        return self

    def __exit__(self, *_exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(_BEAT_SECONDS):
            if self.look() is not None:
                return
            self._beat()

    def _beat(self) -> None:
        """Give a sign of life; a fence that only looks gives none."""


class Life(Fence):
    """Owns a run while entered; raises ConfigError on entering when another life goes on."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir, secrets.token_hex(8))
        self._num_beats = 0

    def __enter__(self) -> Self:
        check_free(self.run_dir)
        _write(self.run_dir, self.token)
        self._beat()
        return super().__enter__()

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        super().__exit__(*exception)
        if self.error is None:
            with contextlib.suppress(OSError):
                (self.run_dir / OWNER).unlink(missing_ok=True)
                (self.run_dir / ALIVE).unlink(missing_ok=True)

    def _beat(self) -> None:
        self._num_beats += 1
        with contextlib.suppress(OSError):  # a disk that fails for a moment; the process is there to be seen
            (self.run_dir / ALIVE).write_text(f"{self.token} {self._num_beats:012d}\n")


def _write(run_dir: Path, token: str) -> None:
    """Make this process the owner."""
    process, path = Identity.of_this(), run_dir / OWNER
    with file_errors(path):
        owner = Owner(token, process.host, process.pid, process.started, now(), run_dir.stat().st_ino)
        path.write_text(json.dumps(asdict(owner)) + "\n")


def _lives(run_dir: Path, owner: Owner) -> bool:
    """Whether the life of an owner goes on, and is not that of this process."""
    if owner.process == Identity.of_this() or is_foreign(run_dir):
        return False
    is_here, before, until = owner.host == platform.node(), _sign(run_dir), time.monotonic() + _WATCH_SECONDS
    while time.monotonic() < until:
        if is_here and owner.process.state() in ("", "Z"):
            return False
        if not is_here and _sign(run_dir) != before:
            return True
        time.sleep(_POLL_SECONDS)
    return is_here


def _sign(run_dir: Path) -> str:
    try:
        return (run_dir / ALIVE).read_text()
    except OSError:
        return ""


def _doing(run_dir: Path) -> str:
    beats = Diagnostics(run_dir, RunDirectory(run_dir).current_attempt()).heartbeats()
    return f", at step {max(beat.step for beat, _ in beats):,}" if beats else ""
