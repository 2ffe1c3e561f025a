"""JSON Lines as the logs of a run have them: one object a line, appended in a single write.

A process may die in the midst of a line. Such a torn line is never taken for a row, and what is appended after it
stands on a line of its own. OS errors become RunDirectoryErrors; a log that is not there has no lines.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, fields
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import orjson

from sisa_scale.errors import DataError
from sisa_scale.files import write_text
from sisa_scale.runs.problems import file_errors

Line = dict[str, Any]
Row = TypeVar("Row")


def append_line(path: Path, line: Line) -> None:
    """Append one line, whole or not at all: what a full disk took of it is cut off again."""
    data = json.dumps(line).encode() + b"\n"
    with file_errors(path), path.open("a+b", buffering=0) as stream:
        end = stream.seek(0, os.SEEK_END)
        if end:
            stream.seek(-1, os.SEEK_END)
            data = data if stream.read(1) == b"\n" else b"\n" + data
        try:
            written = stream.write(data)
            if written < len(data):
                stream.write(data[written:])  # says why it was cut short
        except OSError:
            with contextlib.suppress(OSError):
                stream.truncate(end)
            raise


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    """Replace a log as a whole, or leave it as it was."""
    with file_errors(path):
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def sync(path: Path) -> None:
    """Make the lines of a log durable."""
    with file_errors(path):
        if path.exists():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the whole lines of a log, the oldest first, without holding them all."""
    with file_errors(path):
        if not path.is_file():
            return
        with path.open("rb") as stream:
            yield from _whole(stream)


def last_lines(path: Path, num_bytes: int) -> list[Line]:
    """Return the whole lines within the last bytes of a log."""
    with file_errors(path):
        if not path.is_file():
            return []
        with path.open("rb") as stream:
            start = max(0, stream.seek(0, os.SEEK_END) - num_bytes)
            stream.seek(start)
            return list(_whole(stream.read().splitlines()[bool(start) :]))


def read_rows(path: Path, build: Callable[[Line], Row], notes: list[str]) -> list[Row]:
    """Return the rows of a log.

    A torn last line (no line break after it, not JSON) is left out and noted. Raises DataError, with file and line, for
    any other line that is malformed.
    """
    with file_errors(path):
        texts = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    rows: list[Row] = []
    for number, text in enumerate(texts, 1):
        try:
            value = json.loads(text)
        except ValueError as error:
            if not text.endswith(b"\n"):
                notes.append(f"{path.name}:{number} is torn and left out; the process died while writing it")
                break
            raise malformed(f"{path}:{number}", repr(text[:60])) from error
        try:
            rows.append(build(value))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise malformed(f"{path}:{number}", f"{type(error).__name__}: {error}") from error
    return rows


class LineFeed:
    """The lines that are added to a log; one that was replaced is read from its start again.

    skips_present: begin with the lines that are added from now on.
    """

    def __init__(self, path: Path, *, skips_present: bool = False) -> None:
        self.path = path
        self._position, self._rest = 0, b""
        self._inode: int | None = None
        if skips_present and path.exists():
            found = path.stat()
            self._position, self._inode = found.st_size, found.st_ino

    def news(self) -> list[Line]:
        """Return the whole lines that were added since the last call."""
        with file_errors(self.path):
            if not self.path.is_file():
                return []
            with self.path.open("rb") as stream:
                inode = os.fstat(stream.fileno()).st_ino
                if inode != self._inode:
                    self._position, self._rest, self._inode = 0, b"", inode
                stream.seek(self._position)
                new = stream.read()
        self._position += len(new)
        *texts, self._rest = (self._rest + new).split(b"\n")
        return list(_whole(texts))


def picked(row_type: type, line: Line) -> dict[str, Any]:
    """Return the fields of a dataclass that a line has; those without a default must be there, unknown ones are left.

    Raises KeyError.
    """
    names = {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(row_type)}
    return {name: line[name] for name, is_needed in names.items() if is_needed or name in line}


def time_text(time: datetime) -> str:
    """Return a time as the logs have it: ISO 8601 to the millisecond."""
    return time.isoformat(timespec="milliseconds")


def malformed(where: object, found: str) -> DataError:
    """Return the error of a file that is not what a run writes."""
    allowed = "every line, and every file, is an object with the documented keys"
    return DataError.at(where, found=found, allowed=allowed, remedy="Restore the file from the run or remove the line.")


def _whole(texts: Iterable[bytes]) -> Iterator[Line]:
    for text in texts:
        value = _parsed(text)
        if isinstance(value, dict):
            yield value


def _parsed(text: bytes) -> Any:
    """Return what a line holds, None if a crash tore it; orjson is quick, json also takes NaN."""
    for loads in (orjson.loads, json.loads):
        try:
            return loads(text)
        except ValueError:
            continue
    return None
