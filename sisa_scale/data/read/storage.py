"""Where a data set lies: a directory, or a URL that fsspec reads (https://, s3://, gs://, ...).

A request to a server is repeated, with growing and random pauses, when the connection drops, when the server fails,
when the body is short, and when the bytes are not those that were asked for.
"""

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sisa_scale.errors import ConfigError, DataError

Buffer = bytes | memoryview
Check = Callable[[Buffer], None]

NUM_ATTEMPTS = 7
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 30.0

_CONNECT_SECONDS, _SILENCE_SECONDS = 15, 60
_INSTALL = {"s3": "pip install 'sisa-scale[s3]'", "gs": "pip install 'sisa-scale[gcs]'"}


class DamageError(DataError):
    """Bytes that are there, and are not those of the data set. Reading them again would not help."""


class LocalStorage:
    """A data set in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def where(self, name: str) -> str:
        """Return the path of a file, as errors name it."""
        return str(self.directory / name)

    def read(self, name: str, check: Check | None = None) -> bytes:
        """Return a whole file. Raises DataError when it cannot be read, and what `check` raises of its bytes."""
        path = self.directory / name
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise _missing(path) from None
        except OSError as error:
            raise unreadable(path, error) from error
        if check is not None:
            check(data)
        return data


class RemoteStorage:
    """A data set on a server."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def where(self, name: str) -> str:
        """Return the URL of a file, as errors name it."""
        return f"{self.url}/{name}"

    def read(self, name: str, check: Check | None = None) -> bytes:
        """Return a whole file. Errors as `LocalStorage.read`, after several attempts."""
        return self._retry(name, lambda files: self._get(files, name), check)

    def read_span(self, name: str, start: int, num_bytes: int, total_bytes: int, check: Check | None = None) -> bytes:
        """Return bytes of a file of `total_bytes`, or all of it: what a server gives that ignores Range.

        `check` gets the span alone. Raises DamageError when the file has another size, else as `read`.
        """

        def get(files: Any) -> bytes:
            data = self._get(files, name, start, start + num_bytes)
            if len(data) not in (num_bytes, total_bytes):
                raise ConnectionError(f"{len(data)} bytes came instead of {num_bytes}")
            return data

        def check_span(data: Buffer) -> None:
            if check is not None:
                check(data if len(data) == num_bytes else data[start : start + num_bytes])

        try:
            return self._retry(f"{name}, offset {start}", get, check_span)
        except DataError:
            found = self._size(name)
            if found is not None and found != total_bytes:
                raise DamageError.at(
                    self.where(f"{name}, offset {start}"),
                    found=f"{found} bytes",
                    allowed=f"the manifest says {total_bytes} bytes",
                    remedy="The file is cut off or another one: copy the data set to the server again.",
                ) from None
            raise

    def _retry(self, what: str, get: Callable[[Any], bytes], check: Check | None) -> bytes:
        import tenacity

        files = self._files  # a missing package is no fault of the server

        def attempt() -> bytes:
            data = get(files)
            if check is not None:
                check(data)
            return data

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(NUM_ATTEMPTS),
            wait=tenacity.wait_random_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
            retry=tenacity.retry_if_not_exception_type((FileNotFoundError, PermissionError)),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except DataError:
            raise
        except FileNotFoundError:
            raise _missing(self.where(what)) from None
        except Exception as error:  # every file system of fsspec has its own
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise DataError.at(
                self.where(what),
                found=f"{NUM_ATTEMPTS} requests in vain, the last: {reason}",
                allowed="the server gives the file",
                remedy="Check the server, the network and your credentials, then resume the run.",
            ) from error

    def _get(self, files: Any, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        data: bytes = files.cat_file(self.where(name), start=start, end=stop)
        return data

    def _size(self, name: str) -> int | None:
        try:
            size: int | None = self._files.size(self.where(name))
        except Exception:  # the size only explains an error that is there
            return None
        return size

    @cached_property
    def _files(self) -> Any:
        import fsspec

        scheme = urlsplit(self.url).scheme
        options: dict[str, Any] = {"use_listings_cache": False}
        if scheme in ("http", "https"):
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
            options["client_kwargs"] = {"timeout": timeout}
        try:
            return fsspec.filesystem(scheme, **options)
        except (ImportError, ValueError) as error:
            raise ConfigError.at(
                self.url,
                found=f"a {scheme}:// URL ({error})",
                allowed="a scheme whose fsspec package is installed",
                remedy=f"{_INSTALL.get(scheme, 'Install its package')}, or copy the data set to a directory.",
            ) from error


Storage = LocalStorage | RemoteStorage


def is_remote(location: str | Path) -> bool:
    """Whether a location is the URL of a server, not a path (or a file:// URL)."""
    return urlsplit(str(location)).scheme not in ("", "file") and "://" in str(location)


def open_storage(location: str | Path) -> Storage:
    """Return the storage of a directory or URL; nothing is read yet."""
    if is_remote(location):
        return RemoteStorage(str(location))
    return LocalStorage(Path(str(location).removeprefix("file://")))


def absolute_location(location: str) -> str:
    """Return a location that means the same in every process: a URL as it is, a path in full."""
    return location if is_remote(location) else str(Path(location.removeprefix("file://")).resolve())


def unreadable(path: object, error: OSError) -> DataError:
    """Return the error of a file that the operating system does not give."""
    return DataError.at(
        path,
        found=f"a file that cannot be opened or read ({os.strerror(error.errno) if error.errno else error})",
        allowed="the file is readable",
        remedy="Check the path, its permissions and the disk.",
    )


def _missing(path: object) -> DataError:
    return DataError.at(
        path,
        found="no such file",
        allowed="every file of a data set is there",
        remedy="Check the path, build the data set first, or copy it again from where it was built.",
    )
