"""Records out of files: `.txt` (one a file), JSON lines and parquet (one a line or row); the first two also packed.

Memory holds one chunk and one record, for parquet the column chunk of one row group.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from sisa_scale.data.build.inputs.find import find_inputs
from sisa_scale.data.build.inputs.input_file import Input
from sisa_scale.data.build.inputs.unpack import unpacked_chunks
from sisa_scale.data.build.texts.json_record import json_record
from sisa_scale.data.build.texts.parquet import parquet_records
from sisa_scale.data.build.texts.records import BOM, BadRecord, BadRecordError, Record, decode
from sisa_scale.errors import DataError, Problem

TEXT_FIELD = "text"


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of a long text that is worked on by itself.

    is_first, is_last: whether a document begins or ends with it; split: the number of the document's split; hash: of
    the document's text, in hexadecimal.
    """

    is_first: bool
    is_last: bool
    split: int
    hash: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a file: the lines that begin in the bytes [start, stop) of its text, or these row groups; None: to the
    end. stretch: set for a part of a text that is one long document.
    """

    file: Input
    start: int = 0
    stop: int | None = None
    stretch: Stretch | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole file."""
        return self.start == 0 and self.stop is None


@dataclass(frozen=True, slots=True)
class Document:
    """One document.

    text: not empty, exactly as in the file; source: the path it was read from; index: its line or row, from 0.
    """

    text: str
    source: str
    index: int


def read_documents(paths: Sequence[Path | str], field: str = TEXT_FIELD) -> Iterator[Document]:
    """Yield the documents of files and directories in order, holding one document in memory at a time.

    Blank lines and records with an empty text are passed over. Raises DataError, naming the line or byte, for anything
    that cannot be read as text, and for a file without a single document.
    """
    for file in find_inputs(paths).files:
        is_empty = True
        for record in good_records(Part(file), field):
            if record.text:
                is_empty = False
                yield Document(record.text, file.url, record.index)
        if is_empty:
            raise DataError.many([no_document(file)])


def read_texts(part: Part, field: str) -> Iterator[str]:
    """Yield the texts of a part that are not empty. Raises DataError for the first bad record."""
    return (record.text for record in good_records(part, field) if record.text)


def good_records(part: Part, field: str) -> Iterator[Record]:
    """Yield the records of a part. Raises DataError for the first bad one."""
    for record in read_records(part, field):
        if isinstance(record, BadRecord):
            raise BadRecordError.many([record.problem])
        yield record


def read_records(part: Part, field: str, chunks: Iterable[bytes] | None = None) -> Iterator[Record | BadRecord]:
    """Yield the records of a part, good and bad, blank lines left out; a record without text has an empty one.

    chunks: the bytes of its text (`text_chunks`), if the caller looks at them, too.
    """
    number = -1
    try:
        if part.file.kind == "parquet":
            yield from parquet_records(part.file, part.start, part.stop, field)
        elif part.file.kind == "txt":
            raw = b"".join(text_chunks(part) if chunks is None else chunks).removeprefix(BOM)
            if raw:
                yield Record(decode(raw, part.file.label), 0)
        else:
            first_line = cache(lambda: _first_line(part))
            for number, line in enumerate(part_lines(part, chunks)):
                if line and not line.isspace():
                    where = partial(_line_name, part, number, first_line)
                    yield json_record(line, number, field, where)
    except BadRecordError as error:  # with the file: the rest of it cannot be read
        yield BadRecord(number + 1, error.problems[0])


def text_chunks(part: Part, stored: Iterable[bytes] | None = None) -> Iterator[bytes]:
    """Yield the bytes of the text of a file from a part on; of a packed one from its beginning.

    stored: the stored bytes from `stored_start` on, if the caller reads them itself.
    """
    start = stored_start(part)
    if stored is None:
        stored = part.file.chunks(start)
    return iter(stored) if start else unpacked_chunks(part.file, stored)


def stored_start(part: Part) -> int:
    """Return where the reading of a part begins in the stored file: one byte before, to see whether a line begins."""
    return 0 if part.file.packing else max(part.start - 1, 0)


def no_document(file: Input) -> Problem:
    """Return the problem of a file without any."""
    return Problem(
        file.label,
        found="no document",
        allowed="every input file holds at least one document that is not empty",
        remedy="Remove the file from the inputs, write it again, or pass it over with --on-bad-record skip.",
    )


@dataclass(slots=True)
class _Open:
    """A packed file between two of its lines. previous, offset: where the last and the next one begin in the text;
    pending: the next one, if it was read already.
    """

    lines: Iterator[bytes]
    previous: int
    offset: int
    pending: bytes | None


# Where the last part of a packed file ended: the next part goes on there instead of unpacking from the beginning.
_left_off: dict[Input, _Open] = {}


def part_lines(part: Part, chunks: Iterable[bytes] | None = None) -> Iterator[bytes]:
    """Yield the lines that begin in a part, without their ends."""
    if part.file.packing:
        yield from _packed_lines(part, chunks)
        return
    offset = stored_start(part)
    for line in _lines(text_chunks(part) if chunks is None else chunks):
        begin, offset = offset, offset + len(line) + 1
        if begin < part.start:
            continue  # the end of a line that belongs to the part before
        if part.stop is not None and begin >= part.stop:
            return
        yield line.removeprefix(BOM)


def _packed_lines(part: Part, chunks: Iterable[bytes] | None) -> Iterator[bytes]:
    state = _left_off.pop(part.file, None)
    _left_off.clear()
    if state is None or state.previous >= part.start:
        state = _Open(_lines(text_chunks(part) if chunks is None else chunks), -1, 0, None)
    while True:
        line = state.pending if state.pending is not None else next(state.lines, None)
        if line is None:
            return
        if part.stop is not None and state.offset >= part.stop:
            state.pending = line
            _left_off[part.file] = state
            return
        begin = state.previous = state.offset
        state.offset, state.pending = begin + len(line) + 1, None
        if begin >= part.start:
            yield line.removeprefix(BOM)  # also where files were put together


def _first_line(part: Part) -> int:
    """Return the number, from 1, of the first line that begins in a part."""
    if not part.start:
        return 1
    number, position, end = 1, 0, part.start - 1
    for chunk in unpacked_chunks(part.file):
        number += chunk[: max(0, end - position)].count(b"\n")
        position += len(chunk)
        if position > end:
            break
    # The line that is cut by the beginning of the part belongs to the part before.
    return number + 1


def _line_name(part: Part, number: int, first_line: Callable[[], int]) -> str:
    return f"{part.file.label}, line {first_line() + number}"


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    pending: list[bytes] = []
    for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join((*pending, line))
            pending.clear()
        pending.append(rest)
    yield b"".join(pending)
