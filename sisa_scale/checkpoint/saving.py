"""Writing a checkpoint with all ranks: it counts only when every rank's part is durable.

The ranks agree by messages, not by looking at each other's files: on a network file system a name may be seen late,
and a message that a file was synced is never early.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sisa_scale.checkpoint.manifest import FileInfo, Manifest, SliceInfo
from sisa_scale.checkpoint.problems import refused
from sisa_scale.checkpoint.slices import Part, write_part
from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.errors import CheckpointError

SPARE = 1.05
T = TypeVar("T")
Written = tuple[FileInfo, list[SliceInfo]]


class Peers(Protocol):
    """The ranks that write together."""

    @property
    def rank(self) -> int:
        """This rank."""

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks by rank, on every rank."""

    def broadcast(self, value: Any) -> Any:
        """Return the value of rank 0."""


def write_checkpoint(
    store: CheckpointStore, peers: Peers, step: int, part: Part, manifest: Callable[[list[Written]], Manifest]
) -> int:
    """Write every rank's part, then on rank 0 the manifest; returns the bytes of the whole checkpoint.

    Raises the same CheckpointError on every rank when it failed; what was written is then removed.
    """
    sizes, free = zip(*peers.gather((part.num_bytes, store.place.free_bytes())), strict=True)
    _check_space(store, sum(sizes), min((space for space in free if space is not None), default=None))

    def write() -> Written:
        store.check_writer()
        return write_part(store.place, store.part_name(step, peers.rank), peers.rank, part)

    written = peers.gather(_attempt(write))
    failure = next((each for each in written if isinstance(each, CheckpointError)), None)
    if peers.rank == 0:
        if failure is None:
            committed = _attempt(lambda: store.commit(step, manifest(written)))
            failure = committed if isinstance(committed, CheckpointError) else None
        if failure is not None:
            _attempt(lambda: store.abandon(step))
    failure = peers.broadcast(failure)
    if failure is not None:
        raise failure
    return sum(file.num_bytes for file, _ in written)


def space_warning(store: CheckpointStore, num_bytes: int, num_checkpoints: int) -> str | None:
    """Return what to tell at the start of a run where its checkpoints will not fit."""
    free = store.place.free_bytes()
    needed = int(num_bytes * num_checkpoints * SPARE)
    if free is None or free >= needed:
        return None
    return (
        f"{store.place.location('')}: {_readable(free)} free, and {num_checkpoints} checkpoints of "
        f"{_readable(num_bytes)} are there at once before the oldest is removed. Free space before they are due."
    )


def _readable(num_bytes: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.1f} {unit}"
    return f"{num_bytes / 1e3:.1f} kB"


def _check_space(store: CheckpointStore, num_bytes: int, free: int | None) -> None:
    needed = int(num_bytes * SPARE)
    if free is not None and free < needed:
        raise CheckpointError.at(
            store.place.location(""),
            found=f"a full disk: {_readable(free)} free",
            allowed=f"a checkpoint of this run needs {_readable(needed)}; nothing of it was written",
            remedy="Free space, lower checkpoint.keep_last, or choose another checkpoint.directory, then resume.",
        )


def _attempt(act: Callable[[], T]) -> T | CheckpointError:
    """Return the result or the error, so that the other ranks can be told of either."""
    try:
        return act()
    except CheckpointError as error:
        return error
    except OSError as error:
        return refused(error.filename or "checkpoint", error)
    except Exception as error:
        return refused("checkpoint", OSError(f"{type(error).__name__}: {error}"))
