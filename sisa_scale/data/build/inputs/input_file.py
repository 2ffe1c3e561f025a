"""One file that a data set is built from: on this machine, or wherever `fsspec` reaches (s3://, gs://, https://)."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from unicodedata import category
from urllib.parse import urlparse

from sisa_scale.data.build.inputs.web import ENCODINGS, RETRY_SECONDS, FileChangedError, is_web, web_chunks, web_options
from sisa_scale.errors import DataError

PACKINGS = (".gz", ".zst", ".xz", ".bz2")
KINDS = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
ENDINGS = f".txt, .jsonl, .ndjson and .json (plain or with {', '.join(PACKINGS)}), and .parquet"

_CHUNK_BYTES = 1 << 18
_REMOTE_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Input:
    """One input file.

    url: a local path or a URL; num_bytes: as stored; version: what changes when the file does (time of change, ETag);
    name: what the data set calls it, a path relative to what the files have in common; encoding: how a web server says
    that the bytes are packed (`Content-Encoding`).
    """

    url: str
    num_bytes: int
    version: str
    name: str = ""
    encoding: str = ""

    @property
    def label(self) -> str:
        """The path or URL as messages show it: without a signature."""
        return printable(without_query(self.url))

    @property
    def kind(self) -> str:
        """One of "txt", "jsonl", "parquet"."""
        return endings(file_name(self.url))[0]

    @property
    def packing(self) -> str:
        """One of "", ".gz", ".zst", ".xz", ".bz2"."""
        return endings(file_name(self.url))[1] or ENCODINGS.get(self.encoding, "")

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """Yield the stored bytes from the offset `start` on. Raises DataError where they cannot be read to the end."""
        position = start
        for chunk in _remote_chunks(self, start) if is_remote(self.url) else _local_chunks(self.url, start):
            position += len(chunk)
            yield chunk
        if position != self.num_bytes:
            raise DataError.at(
                self.label,
                found=f"an end after {position} of {self.num_bytes} bytes",
                allowed="a file stays as it is while a build reads it",
                remedy="Run the command again when nothing writes to it.",
            )

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the file for reading at any offset."""
        if not is_remote(self.url):
            with Path(self.url).open("rb") as stream:
                yield stream
            return
        system, path = open_file_system(self.url)
        with system.open(path, "rb", block_size=_REMOTE_BLOCK_BYTES) as stream:
            yield stream


def endings(name: str) -> tuple[str, str]:
    """Return the kind and the packing that a file's name tells, both in any case; the kind is "" if it is not read."""
    lower = name.lower()
    packing = next((packing for packing in PACKINGS if lower.endswith(packing)), "")
    kind = KINDS.get("." + lower.removesuffix(packing).rpartition(".")[2], "")
    return ("", packing) if kind == "parquet" and packing else (kind, packing)


def is_remote(path: str | Path) -> bool:
    """Say whether a path is a URL."""
    return "://" in str(path) and not isinstance(path, Path)


def without_query(url: str) -> str:
    """Return a local path or URL without the query of the latter, which may hold a signature."""
    return url.partition("?")[0] if is_remote(url) else url


def printable(path: str) -> str:
    """Return a path with what is no text in it (bytes that are not UTF-8, ends of lines) written as escapes."""
    text = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(repr(character)[1:-1] if category(character) == "Cc" else character for character in text)


def file_name(url: str) -> str:
    """Return the last part of a local path or URL, without the query of the latter."""
    return (urlparse(url).path if is_remote(url) else url).rpartition("/")[2]


def _local_chunks(url: str, start: int) -> Iterator[bytes]:
    with Path(url).open("rb") as stream:
        stream.seek(start)
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def _remote_chunks(file: Input, start: int) -> Iterator[bytes]:
    """Read on where the connection broke, or an answer ended early, a few times with growing pauses."""
    system, path = open_file_system(file.url)
    position = start
    pauses = iter(RETRY_SECONDS)
    while position < file.num_bytes:
        try:
            for chunk in _answered_chunks(system, path, file, position):
                position += len(chunk)
                yield chunk
                pauses = iter(RETRY_SECONDS)
            if position < file.num_bytes:
                raise ConnectionError(f"an answer that ends after {position} of {file.num_bytes} bytes")
        except FileChangedError as error:
            raise DataError.at(
                file.label,
                found=str(error),
                allowed="a file stays as it is while a build reads it",
                remedy="Run the command again: what was done of other files is not done again.",
            ) from error
        except Exception as error:  # each protocol has its own
            refuse_access(file.url, error)
            pause = next(pauses, None)
            if pause is None:
                raise DataError.at(
                    file.label,
                    found=f"a failed read at byte {position}, {len(RETRY_SECONDS) + 1} times ({reason_of(error)})",
                    allowed="inputs can be read",
                    remedy="Check the connection, then run the command again.",
                ) from error
            time.sleep(pause)


def _answered_chunks(system: Any, path: str, file: Input, start: int) -> Iterator[bytes]:
    if is_web(file.url):
        yield from web_chunks(system, path, start, file.num_bytes, file.version)
        return
    with system.open(path, "rb", block_size=_REMOTE_BLOCK_BYTES) as stream:
        if start:
            stream.seek(start)
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def open_file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL and the path in it. Raises DataError for a protocol that is not installed."""
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(url, **(web_options() if is_web(url) else {}))
    except (ImportError, ValueError) as error:
        raise DataError.at(
            without_query(url),
            found=f"a protocol that cannot be used here ({reason_of(error)})",
            allowed="local paths, https://, and with their packages s3:// and gs://",
            remedy='Install it, for example with: pip install "sisa-scale[s3]" or "sisa-scale[gcs]"',
        ) from error
    return system, path


def reason_of(error: BaseException) -> str:
    """Return the first line of an error, or its kind, without the query of a URL in it."""
    words = (str(error).partition("\n")[0] or type(error).__name__).split(" ")
    return " ".join(word.partition("?")[0] if "://" in word else word for word in words)


def refuse_access(url: str, error: BaseException) -> None:
    """Raise DataError if an error says that the server knows the address but not the right of who asks."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, PermissionError) and _status(cause) not in (401, 403):
        cause = cause.__cause__
    if cause is not None:
        raise DataError.at(
            without_query(url),
            found=f"a server that refuses access ({_status(cause) or 'permission denied'})",
            allowed="inputs may be read by who builds",
            remedy="Check the credentials, or ask for a new link if a signed one has expired.",
        ) from error


def _status(error: BaseException) -> int | None:
    return getattr(error, "status", None)
