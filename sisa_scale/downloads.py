"""Files from the web: continued where a connection broke, checked, and whole or absent under their name."""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from sisa_scale.errors import DataError
from sisa_scale.files import refusal_of

NUM_ATTEMPTS = 7
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 30.0
TIMEOUT_SECONDS = 30.0
_CHUNK_BYTES = 1 << 20
_REFUSED = {401: "the server wants a login", 403: "the server refuses", 404: "no such file", 410: "no such file"}


class _BrokenOffError(Exception):
    """The body ended before its length, or went beyond it."""


def download(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    num_bytes: int | None = None,
    advance: Callable[[int], None] = lambda _num_bytes: None,
) -> str:
    """Download `url` to `path` and return its SHA-256.

    What has come so far lies in `path` with `.part`; a later call goes on from there, if the server knows ranges.
    sha256, num_bytes: what the file must be, as far as known; advance: told of bytes as they come. Raises DataError
    when it cannot be had, or is another file; then nothing lies at `path`.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fill(url, part, num_bytes, advance)
        digest = _sha256(part)
        if sha256 is not None and digest != sha256:
            part.unlink()
            raise DataError.at(
                url,
                found=f"a file with SHA-256 {digest}",
                allowed=f"it must be {sha256}",
                remedy="Try again, or give the path of a copy you trust.",
            )
        part.replace(path)
    except OSError as error:
        found, remedy = refusal_of(error)
        raise DataError.at(
            path,
            found=found,
            allowed="the directory is writable and has room",
            remedy=f"{remedy}, then call again: what has come is kept.",
        ) from error
    return digest


def _fill(url: str, part: Path, num_bytes: int | None, advance: Callable[[int], None]) -> None:
    import tenacity

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(NUM_ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
        retry=tenacity.retry_if_exception_type(_BrokenOffError),
        reraise=True,
    )
    try:
        retrying(_continue, url, part, num_bytes, advance)
    except _BrokenOffError as error:
        raise DataError.at(
            url,
            found=f"{NUM_ATTEMPTS} requests in vain, the last: {error}",
            allowed="the server gives the whole file",
            remedy=f"Check the network and call again: what has come is kept in {part}.",
        ) from error


def _continue(url: str, part: Path, num_bytes: int | None, advance: Callable[[int], None]) -> None:
    start = part.stat().st_size if part.exists() else 0
    if num_bytes is not None and start == num_bytes:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            if response.status != 206:
                start = 0  # the server sends all of it
            length = response.headers.get("Content-Length")
            expected = num_bytes if num_bytes is not None else start + int(length) if length else None
            size = _append(response.read, part, start, advance)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # more has come than the server has
            part.unlink()
        if error.code in _REFUSED:
            raise DataError.at(
                url,
                found=f"HTTP status {error.code} ({_REFUSED[error.code]})",
                allowed="the file can be had without a login",
                remedy="Check the address, or fetch the file by hand.",
            ) from error
        raise _BrokenOffError(f"HTTP status {error.code}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise _BrokenOffError(str(error)) from error
    if expected is not None and size != expected:
        if size > expected:
            part.unlink()
        raise _BrokenOffError(f"{size} bytes of {expected}")


def _append(read: Callable[[int], bytes], part: Path, start: int, advance: Callable[[int], None]) -> int:
    """Write what comes behind the first `start` bytes; return the size of the file."""
    with part.open("ab" if start else "wb") as stream:
        while chunk := read(_CHUNK_BYTES):
            stream.write(chunk)
            advance(len(chunk))
        return stream.tell()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
