"""The files a data set is built from: on this machine, or wherever `fsspec` reaches (s3://, gs://, https://)."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlparse

from sisa_scale.errors import DataError

PACKINGS = (".gz", ".zst")
SUFFIXES = (*(kind + packing for kind in (".txt", ".jsonl") for packing in ("", *PACKINGS)), ".parquet")

_CHUNK_BYTES = 1 << 18
_REMOTE_BLOCK_BYTES = 4 << 20
_RETRY_SECONDS = (0.5, 2.0, 8.0)


@dataclass(frozen=True, slots=True)
class Input:
    """One input file.

    url: a local path or a URL; num_bytes: as stored; version: what changes when the file does (time of change, ETag).
    """

    url: str
    num_bytes: int
    version: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return file_name(self.url)

    @property
    def kind(self) -> str:
        """One of "txt", "jsonl", "parquet"."""
        return self.name.removesuffix(self.packing).rpartition(".")[2]

    @property
    def packing(self) -> str:
        """One of "", ".gz", ".zst"."""
        return next((packing for packing in PACKINGS if self.name.endswith(packing)), "")

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """Yield the stored bytes from the offset `start` on. Raises DataError where they cannot be read to the end."""
        read = _remote_chunks if is_remote(self.url) else _local_chunks
        position = start
        for chunk in read(self.url, start):
            position += len(chunk)
            yield chunk
        if position < self.num_bytes:
            raise DataError.at(
                self.url,
                found=f"an end after {position} of {self.num_bytes} bytes",
                allowed="a file is read to its end",
                remedy="It changed or the connection broke; run the command again.",
            )

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the file for reading at any offset."""
        if not is_remote(self.url):
            with Path(self.url).open("rb") as stream:
                yield stream
            return
        system, path = _file_system(self.url)
        with system.open(path, "rb", block_size=_REMOTE_BLOCK_BYTES) as stream:
            yield stream


def is_remote(path: str | Path) -> bool:
    """Say whether a path is a URL."""
    return "://" in str(path) and not isinstance(path, Path)


def file_name(url: str) -> str:
    """Return the last part of a local path or URL, without the query of the latter."""
    return (urlparse(url).path if is_remote(url) else url).rpartition("/")[2]


def find_inputs(paths: Sequence[Path | str]) -> list[Input]:
    """Return the files that `paths` name, in reading order; a directory means all below it, sorted.

    A URL may hold `*`, and on object stores name a directory. Raises DataError for a missing path, an unsupported
    suffix, or a directory without any supported file.
    """
    found = []
    for path in paths:
        if is_remote(path):
            found += _find_remote(str(path))
        else:
            found += [_local_input(file) for file in find_text_files([Path(path)])]
    return found


def find_text_files(paths: Sequence[Path]) -> list[Path]:
    """Return the local files that `paths` name; order and errors as for `find_inputs`."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
            files += found or _refuse_directory(path)
        elif not path.is_file():
            raise _missing(path)
        else:
            _check_suffix(path, path.name)
            files.append(path)
    return files


def _local_input(path: Path) -> Input:
    status = path.stat()
    return Input(str(path), status.st_size, str(status.st_mtime_ns))


def _local_chunks(url: str, start: int) -> Iterator[bytes]:
    with Path(url).open("rb") as stream:
        stream.seek(start)
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def _remote_chunks(url: str, start: int) -> Iterator[bytes]:
    """Read on where the connection broke, a few times with growing pauses."""
    system, path = _file_system(url)
    position = start
    pauses = iter(_RETRY_SECONDS)
    while True:
        try:
            with system.open(path, "rb", block_size=_REMOTE_BLOCK_BYTES) as stream:
                if position:
                    stream.seek(position)
                while chunk := stream.read(_CHUNK_BYTES):
                    position += len(chunk)
                    yield chunk
                    pauses = iter(_RETRY_SECONDS)
            return
        except Exception as error:  # each protocol has its own
            pause = next(pauses, None)
            if pause is None:
                raise DataError.at(
                    url,
                    found=f"a failed read at byte {position}, {len(_RETRY_SECONDS) + 1} times ({_reason(error)})",
                    allowed="inputs can be read",
                    remedy="Check the connection, then run the command again.",
                ) from error
            time.sleep(pause)


def _find_remote(url: str) -> list[Input]:
    system, path = _file_system(url)
    try:
        if "*" in path:
            names = sorted(system.glob(path))
        elif not system.exists(path):
            raise _missing(url)
        elif not urlparse(url).scheme.startswith("http") and system.isdir(path):
            names = sorted(system.find(path))
        else:
            _check_suffix(url, file_name(url))
            names = [path]
        urls = [(system.unstrip_protocol(name) if not is_remote(name) else name, name) for name in names]
        chosen = [(full, name) for full, name in urls if file_name(full).endswith(SUFFIXES)]
        return [_remote_input(full, system.info(name)) for full, name in chosen] or _refuse_directory(url)
    except DataError:
        raise
    except Exception as error:  # each protocol has its own
        raise DataError.at(
            url,
            found=f"a location that does not answer ({_reason(error)})",
            allowed="inputs exist and may be read",
            remedy="Check the address, the credentials and the connection.",
        ) from error


def _remote_input(url: str, info: dict[str, Any]) -> Input:
    version = next((info[key] for key in ("ETag", "etag", "LastModified", "mtime", "updated") if info.get(key)), "")
    return Input(url, int(info.get("size") or 0), str(version))


def _file_system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError.at(
            url,
            found=f"a protocol that cannot be used here ({_reason(error)})",
            allowed="local paths, https://, and with their packages s3:// and gs://",
            remedy='Install it, for example with: pip install "sisa-scale[s3]" or "sisa-scale[gcs]"',
        ) from error
    return system, path


def _reason(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _missing(path: Path | str) -> DataError:
    return DataError.at(
        path, found="no such file", allowed="inputs are existing files or directories", remedy="Check the path."
    )


def _refuse_directory(path: Path | str) -> list[Any]:
    raise DataError.at(
        path,
        found="a directory without any text file",
        allowed=f"text files end in {', '.join(SUFFIXES)}",
        remedy="Name a file, or a directory that holds some.",
    )


def _check_suffix(path: Path | str, name: str) -> None:
    if not name.endswith(SUFFIXES):
        raise DataError.at(
            path,
            found=f"the suffix {Path(name).suffix!r}",
            allowed=f"text files end in {', '.join(SUFFIXES)}",
            remedy="Convert the file to one of these formats, or rename it.",
        )
