"""Where the checkpoints of a run lie: a directory, or a URL that fsspec writes (s3://, gs://, ...).

Both are told names relative to the place. What differs is how a checkpoint that is complete comes to exist: in a
directory it is built under a hidden name and renamed; an object store has no rename, so its files carry the writer's
name, no two writers share one, and the manifest is uploaded last.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

from sisa_scale.data.read.storage import is_remote
from sisa_scale.errors import ConfigError
from sisa_scale.faults import fault_point
from sisa_scale.files import fsync_directory, remove_abandoned, write_text

MANIFEST_NAME = "manifest.json"
_DAMAGED, _ABANDONED = "damaged", "abandoned"
_UPLOAD_BYTES = 64 << 20
_INSTALL = {"s3": "pip install 'sisa-scale[s3]'", "gs": "pip install 'sisa-scale[gcs]'"}


class LocalPlace:
    """A directory that all workers see."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def location(self, name: str) -> Path:
        """Return the full path of a name."""
        return self.root / name

    def names(self) -> list[str]:
        """Return what lies here."""
        return [entry.name for entry in self.root.iterdir()] if self.root.is_dir() else []

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.root / name).is_file()

    def read(self, name: str) -> bytes:
        """Return a whole file."""
        return (self.root / name).read_bytes()

    def write(self, name: str, text: str) -> None:
        """Write a small file: whole or absent, and durable."""
        write_text(self.root / name, text)

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        """Open a new file that is durable when the block ends."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        fsync_directory(path.parent)

    def part_name(self, checkpoint: str, writer: str, rank: int) -> str:
        """Return the file that a rank writes while the checkpoint does not exist yet."""
        return f"{self._staging(checkpoint, writer)}/rank_{rank:05d}.safetensors"

    def publish(self, checkpoint: str, writer: str, manifest: str, check: Callable[[], None]) -> None:
        """Make the checkpoint exist. `check` raises where another writer has taken over."""
        staging, final = self._staging(checkpoint, writer), self.root / checkpoint
        self.write(f"{staging}/{MANIFEST_NAME}", manifest)
        fault_point("checkpoint.commit.before_rename")
        check()
        replaced = self.root / f".{checkpoint}.{writer}.old"
        try:
            (self.root / staging).rename(final)
        except OSError as error:  # a writer that was cleared away meanwhile has nothing to rename, and changes nothing
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            final.rename(replaced)
            (self.root / staging).rename(final)
        fsync_directory(self.root)
        fault_point("checkpoint.commit.after_rename")
        shutil.rmtree(replaced, ignore_errors=True)

    def abandon(self, checkpoint: str, writer: str) -> None:
        """Remove what was written of a checkpoint that is not to be."""
        self._remove(self.root / self._staging(checkpoint, writer))

    def clear(self) -> None:
        """Remove what killed writers left. Their later renames fail: what they had written is gone at once."""
        remove_abandoned(self.root)
        for leftover in sorted(self.root.glob(".step_*")):
            final = self.root / leftover.name[1:].split(".")[0]
            if leftover.suffix == ".old" and not final.exists():
                leftover.rename(final)
            else:
                self._remove(leftover)

    def remove(self, checkpoint: str) -> None:
        """Remove a checkpoint, which is gone at once as a whole."""
        self._remove(self.root / checkpoint)

    def set_aside(self, checkpoint: str) -> str:
        """Rename a damaged checkpoint, so that it no longer counts; returns where it is now."""
        return self._rename(checkpoint, _free_name(self.names(), checkpoint, _DAMAGED))

    def archive(self, checkpoint: str) -> str:
        """Rename a sound checkpoint that a person went back behind; returns where it is now."""
        return self._rename(checkpoint, _free_name(self.names(), checkpoint, _ABANDONED))

    def free_bytes(self) -> int | None:
        """Return the free space, as far as it is known."""
        there = next(path for path in (self.root, *self.root.parents) if path.is_dir())
        return shutil.disk_usage(there).free

    def _staging(self, checkpoint: str, writer: str) -> str:
        return f".{checkpoint}.{writer}.tmp"

    def _rename(self, checkpoint: str, name: str) -> str:
        (self.root / checkpoint).rename(self.root / name)
        fsync_directory(self.root)
        return str(self.root / name)

    def _remove(self, path: Path) -> None:
        """Remove a tree, by a rename first: it is gone as a whole even if this process dies halfway."""
        if not path.is_dir():
            return
        if path.suffix != ".trash":
            trash = self.root / f".{path.name.lstrip('.')}.trash"
            shutil.rmtree(trash, ignore_errors=True)
            path = path.rename(trash)
            fault_point("checkpoint.prune.in_delete")
        shutil.rmtree(path)


class RemotePlace:
    """A prefix of an object store. Every error of its client is an OSError here."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def location(self, name: str) -> str:
        """Return the URL of a name."""
        return f"{self.url}/{name}" if name else self.url

    def names(self) -> list[str]:
        """Return what lies here."""
        return self._names("")

    def has(self, name: str) -> bool:
        """Whether there is such an object."""
        with _as_os_errors(self.location(name)):
            return bool(self._files.isfile(self.location(name)))

    def read(self, name: str) -> bytes:
        """Return a whole object."""
        with _as_os_errors(self.location(name)):
            return cast(bytes, self._files.cat_file(self.location(name)))

    def write(self, name: str, text: str) -> None:
        """Write a small object."""
        with _as_os_errors(self.location(name)):
            self._files.pipe_file(self.location(name), text.encode())

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        """Open a new object that is there, at its full size, when the block ends."""
        url = self.location(name)
        with _as_os_errors(url):
            with self._files.open(url, "wb", block_size=_UPLOAD_BYTES) as stream:
                yield stream
                written = stream.tell()
            arrived = self._files.size(url)
        if arrived != written:
            raise OSError(f"{arrived} of {written} bytes arrived at {url}")

    def download(self, name: str, path: Path) -> None:
        """Copy an object into a local file."""
        with _as_os_errors(self.location(name)):
            self._files.get_file(self.location(name), str(path))

    def part_name(self, checkpoint: str, writer: str, rank: int) -> str:
        """Return the object that a rank writes: it is this writer's alone."""
        return f"{checkpoint}/rank_{rank:05d}.{writer}.safetensors"

    def publish(self, checkpoint: str, writer: str, manifest: str, check: Callable[[], None]) -> None:
        """Make the checkpoint exist: its manifest comes last."""
        fault_point("checkpoint.commit.before_rename")
        check()
        self.write(f"{checkpoint}/{MANIFEST_NAME}", manifest)
        fault_point("checkpoint.commit.after_rename")

    def abandon(self, checkpoint: str, writer: str) -> None:
        """Remove what was written of a checkpoint that is not to be."""
        for name in self._names(checkpoint):
            if name.endswith(f".{writer}.safetensors"):
                self._delete(f"{checkpoint}/{name}")

    def clear(self) -> None:
        """Remove the objects of checkpoints that killed writers did not complete."""
        for checkpoint in self.names():
            if checkpoint.startswith("step_") and not any(MANIFEST_NAME in name for name in self._names(checkpoint)):
                self._delete(checkpoint)

    def remove(self, checkpoint: str) -> None:
        """Remove a checkpoint, the manifest first: half of one must not look like a whole."""
        self._delete(f"{checkpoint}/{MANIFEST_NAME}")
        fault_point("checkpoint.prune.in_delete")
        self._delete(checkpoint)

    def set_aside(self, checkpoint: str) -> str:
        """Rename the manifest of a damaged checkpoint, so that it no longer counts; returns where it is now."""
        manifest = f"{checkpoint}/{MANIFEST_NAME}"
        with _as_os_errors(self.location(manifest)):
            self._files.mv(self.location(manifest), self.location(f"{manifest}.{_DAMAGED}"))
        return self.location(f"{manifest}.{_DAMAGED}")

    def archive(self, checkpoint: str) -> str:
        """Move a sound checkpoint that a person went back behind; returns where it is now.

        It is copied, the manifest last, and then removed, so that at any moment one of the two is whole.
        """
        name = _free_name(self.names(), checkpoint, _ABANDONED)
        parts = [part for part in self._names(checkpoint) if part != MANIFEST_NAME]
        for group in (parts, [MANIFEST_NAME]):
            with _as_os_errors(self.location(name)):
                self._files.copy(
                    [self.location(f"{checkpoint}/{part}") for part in group],
                    [self.location(f"{name}/{part}") for part in group],
                )
        self.remove(checkpoint)
        return self.location(name)

    def free_bytes(self) -> int | None:
        """Object stores do not fill up."""
        return None

    def _names(self, name: str) -> list[str]:
        with _as_os_errors(self.location(name)):
            try:
                listed = self._files.ls(self.location(name), detail=False)
            except FileNotFoundError:
                return []
        return [str(path).rstrip("/").rsplit("/", 1)[-1] for path in listed]

    def _delete(self, name: str) -> None:
        with _as_os_errors(self.location(name)):
            self._files.rm(self.location(name), recursive=True)

    @cached_property
    def _files(self) -> Any:
        import fsspec

        scheme = urlsplit(self.url).scheme
        options = {"auto_mkdir": True} if scheme == "local" else {"use_listings_cache": False}
        try:
            return fsspec.filesystem(scheme, **options)
        except (ImportError, ValueError) as error:
            raise ConfigError.at(
                self.url,
                found=f"a {scheme}:// URL ({error})",
                allowed="a scheme whose fsspec package is installed",
                remedy=f"{_INSTALL.get(scheme, 'Install its package')}, or keep the checkpoints in a directory.",
            ) from error


Place = LocalPlace | RemotePlace


def _free_name(names: list[str], checkpoint: str, ending: str) -> str:
    """Return the name of a checkpoint that no longer counts; it may not be the first of its step."""
    name, number = f"{checkpoint}.{ending}", 1
    while name in names:
        number += 1
        name = f"{checkpoint}.{ending}-{number}"
    return name


def open_place(location: str | Path) -> Place:
    """Return the place of a directory or URL; nothing is read yet."""
    if is_remote(location):
        return RemotePlace(str(location))
    return LocalPlace(Path(str(location).removeprefix("file://")))


@contextmanager
def _as_os_errors(where: object) -> Iterator[None]:
    try:
        yield
    except (OSError, ConfigError):
        raise
    except Exception as error:  # every file system of fsspec has its own
        raise OSError(f"{where}: {type(error).__name__}: {error}") from error
