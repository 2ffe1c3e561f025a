"""Files on web servers, as bytes that are stored there: one request, read to the length that the server said.

A server may pack an answer although it was asked not to (`Content-Encoding`), most often because the file lies there
packed; then the bytes are those of a packed file, and nothing unpacks them on the way.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

# By what a server calls it.
ENCODINGS = {"gzip": ".gz", "x-gzip": ".gz", "zstd": ".zst"}
# Pauses between attempts.
RETRY_SECONDS = (0.5, 2.0, 8.0)

_CHUNK_BYTES = 1 << 18
_CONNECT_SECONDS, _SILENCE_SECONDS = 15, 60


def is_web(url: str) -> bool:
    """Say whether a URL is one of a web server."""
    return urlsplit(url).scheme in ("http", "https")


def web_options() -> dict[str, Any]:
    """Return how fsspec opens its connections."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
    headers = {"Accept-Encoding": "identity"}
    return {"client_kwargs": {"headers": headers, "timeout": timeout, "auto_decompress": False}}


def web_info(system: Any, path: str) -> dict[str, Any]:
    """Return what the server says of a file: `size` (None if it does not say), `encoding`, and its `version`.

    Asks with GET, as the reading does: some links allow nothing else, and some servers answer HEAD differently.
    """
    for pause in (*RETRY_SECONDS, None):
        try:
            with _answer(system, path, {}) as (_, headers):
                length = headers.get("Content-Length")
                size = None if length is None else int(length)
                return {"size": size, "encoding": _encoding(headers), "version": _version(headers)}
        except Exception as error:
            if pause is None or not _is_busy(error):
                raise
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def web_chunks(system: Any, path: str, start: int, num_bytes: int, version: str) -> Iterator[bytes]:
    """Yield the bytes of a file from an offset on. num_bytes, version: as `web_info` said.

    Raises FileChangedError if the server has another file by now, and the errors of the connection.
    """
    with _answer(system, path, {"Range": f"bytes={start}-"} if start else {}) as (stream, headers):
        skipped = 0 if stream.r.status == 206 else start  # a server may know no ranges
        length = headers.get("Content-Length")
        total = None if length is None else int(length) + start - skipped
        if _version(headers) != version or total not in (None, num_bytes):
            raise FileChangedError(f"the server has another file by now, of {total} bytes instead of {num_bytes}")
        while chunk := stream.read(_CHUNK_BYTES):
            if skipped < len(chunk):
                yield chunk[skipped:]
            skipped = max(0, skipped - len(chunk))


class FileChangedError(Exception):
    """A file is not the one that was found when the build began."""


@contextmanager
def _answer(system: Any, path: str, headers: dict[str, str]) -> Iterator[tuple[Any, Any]]:
    # A block size of 0 asks for the whole answer; the size only keeps fsspec from asking for it once more.
    with system.open(path, "rb", block_size=0, size=1, headers=headers) as stream:
        yield stream, stream.r.headers


def _is_busy(error: Exception) -> bool:
    status = getattr(error, "status", 0)
    return status == 429 or status >= 500


def _encoding(headers: Any) -> str:
    encoding: str = headers.get("Content-Encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def _version(headers: Any) -> str:
    return next((str(headers[name]) for name in ("ETag", "Last-Modified") if headers.get(name)), "")
