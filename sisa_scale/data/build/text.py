"""Documents out of files: `.txt` (one a file), `.jsonl` and `.parquet` (one a record); the first two also packed.

Memory holds one chunk and one document, for parquet the column chunk of one row group.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sisa_scale.data.build.inputs import Input, find_inputs
from sisa_scale.errors import DataError

TEXT_FIELD = "text"

_CHUNK_BYTES = 1 << 18
_PARQUET_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Document:
    """One document.

    text: not empty, exactly as in the file; source: the path it was read from; index: its number in that file, from 0.
    """

    text: str
    source: str
    index: int


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a file: the lines that begin in the bytes [start, stop), or these row groups; None: to the end."""

    file: Input
    start: int = 0
    stop: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole file."""
        return self.start == 0 and self.stop is None


def read_documents(paths: Sequence[Path | str], field: str = TEXT_FIELD) -> Iterator[Document]:
    """Yield the documents of files and directories in order, holding one document in memory at a time.

    Blank lines and records with an empty text are passed over. Raises DataError, naming the line or byte, for anything
    that cannot be read as text, and for a file without a single document.
    """
    for file in find_inputs(paths):
        index = -1
        for index, text in enumerate(read_texts(Part(file), field)):
            yield Document(text, file.url, index)
        if index < 0:
            raise no_document(file.url)


def read_texts(part: Part, field: str, chunks: Iterable[bytes] | None = None) -> Iterator[str]:
    """Yield the texts of a part that are not empty. chunks: its stored bytes, if the caller reads them itself."""
    if part.file.kind == "parquet":
        yield from _parquet_texts(part, field)
        return
    if chunks is None:
        chunks = stored_chunks(part)
    unpacked = _unpack(chunks, part.file)
    yield from _json_texts(unpacked, part, field) if part.file.kind == "jsonl" else _whole_text(unpacked, part.file)


def stored_chunks(part: Part) -> Iterator[bytes]:
    """Yield the stored bytes of a part of a `.txt` or `.jsonl` file and what follows it, as `read_texts` wants them."""
    return part.file.chunks(max(part.start - 1, 0))


def num_row_groups(file: Input) -> int:
    """Return the number of row groups of a parquet file."""
    with _open_parquet(file) as parquet:
        return int(parquet.num_row_groups)


def no_document(where: object) -> DataError:
    """Return the error for a file without any."""
    return DataError.at(
        where,
        found="no document",
        allowed="every input file holds at least one document that is not empty",
        remedy="Remove the file from the inputs, or write it again.",
    )


def _whole_text(chunks: Iterable[bytes], file: Input) -> Iterator[str]:
    raw = b"".join(chunks)
    if raw:
        yield _decode(raw, file.url)


def _json_texts(chunks: Iterable[bytes], part: Part, field: str) -> Iterator[str]:
    import orjson

    offset = max(part.start - 1, 0)
    for number, line in enumerate(_lines(chunks)):
        begin, offset = offset, offset + len(line) + 1
        if begin < part.start:
            continue  # the end of a line that belongs to the part before
        if part.stop is not None and begin >= part.stop:
            return
        if line and not line.isspace():
            try:
                text = orjson.loads(line)[field]
            except (ValueError, TypeError, KeyError, IndexError):
                text = None
            if type(text) is not str:  # rare: find out why, by the rules of the standard library
                where = f"{part.file.url}, line {_first_line(part) + number}"
                text = _text_field(_decode(line, where), where, field)
            if text:
                yield text


def _first_line(part: Part) -> int:
    """Return the number, from 1, of the line in which the reading of a part begins."""
    number, position, end = 1, 0, max(part.start - 1, 0)
    for chunk in part.file.chunks() if end else ():
        number += chunk[: end - position].count(b"\n")
        position += len(chunk)
        if position >= end:
            break
    return number


def _text_field(line: str, where: str, field: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError.at(
            where,
            found=f"a line that is not JSON ({error})",
            allowed="every line of a .jsonl file is one JSON object",
            remedy="Correct or remove the line.",
        ) from error
    text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise DataError.at(
            where,
            found=f"the fields {sorted(record)}" if isinstance(record, dict) else f"a {type(record).__name__}",
            allowed=f'every line is an object whose field "{field}" is a string',
            remedy="Name the field that holds the document with --text-field, or correct the line.",
        )
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError.at(
            where,
            found="half of a surrogate pair (\\ud800 to \\udfff) in the text",
            allowed="the text is valid Unicode",
            remedy="Write the file again with whole characters.",
        )
    return text


def _parquet_texts(part: Part, field: str) -> Iterator[str]:
    import pyarrow

    with _open_parquet(part.file) as parquet:
        names = parquet.schema_arrow.names
        kind = parquet.schema_arrow.field(field).type if field in names else None
        if kind not in (pyarrow.string(), pyarrow.large_string()):
            raise DataError.at(
                part.file.url,
                found=f"the column {field!r} of type {kind}" if kind else f"the columns {', '.join(names)}",
                allowed=f"a column {field!r} of type string",
                remedy="Name the column that holds the documents with --text-field.",
            )
        stop = parquet.num_row_groups if part.stop is None else part.stop
        row = sum(parquet.metadata.row_group(number).num_rows for number in range(part.start))
        groups = list(range(part.start, stop))
        for batch in parquet.iter_batches(_PARQUET_ROWS, row_groups=groups, columns=[field], use_threads=False):
            for number, text in enumerate(batch.column(0).to_pylist(), start=row):
                if text is None:
                    raise DataError.at(
                        f"{part.file.url}, row {number}",
                        found="no value",
                        allowed=f"every row of the column {field!r} holds a string",
                        remedy="Remove the row, or write an empty string there.",
                    )
                if text:
                    yield text
            row += batch.num_rows


@contextmanager
def _open_parquet(file: Input) -> Iterator[Any]:
    """Open a parquet file; what pyarrow or the connection raises inside the block becomes a DataError."""
    from pyarrow.parquet import ParquetFile

    try:
        with file.open() as stream:
            yield ParquetFile(stream)
    except (DataError, GeneratorExit):
        raise
    except Exception as error:  # pyarrow's, or those of the protocol
        raise DataError.at(
            file.url,
            found=f"a file that cannot be read as parquet ({str(error).partition(chr(10))[0]})",
            allowed=".parquet files are whole",
            remedy="Copy or write the file again.",
        ) from error


def _decode(raw: bytes, where: object) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DataError.at(
            where,
            found=f"the byte 0x{raw[error.start]:02x} at byte offset {error.start}",
            allowed="text is UTF-8",
            remedy="Convert it first, for example with: iconv -f LATIN1 -t UTF-8",
        ) from error


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    pending: list[bytes] = []
    for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join((*pending, line))
            pending.clear()
        pending.append(rest)
    yield b"".join(pending)


def _unpack(chunks: Iterable[bytes], file: Input) -> Iterator[bytes]:
    from zstandard import ZstdError

    unpack = {".gz": _unpack_gzip, ".zst": _unpack_zstd}.get(file.packing, iter)
    try:
        yield from unpack(chunks)
    except (EOFError, gzip.BadGzipFile, zlib.error, ZstdError) as error:
        raise DataError.at(
            file.url,
            found=f"a damaged or cut off {file.packing} stream ({error})",
            allowed="compressed files are whole",
            remedy="Copy or compress the file again.",
        ) from error


def _unpack_gzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=io.BufferedReader(_Stream(iter(chunks)), _CHUNK_BYTES)) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


class _Stream(io.RawIOBase):
    """Chunks as a file, for readers that want one."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._chunks, b"")
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)


def _unpack_zstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    # Not `stream_reader`: it ends without an error where a file was cut off.
    from zstandard import ZstdDecompressor

    decoder = None
    for packed in chunks:
        rest = packed
        while rest:
            decoder = decoder or ZstdDecompressor().decompressobj()
            yield decoder.decompress(rest)
            rest = decoder.unused_data
            if decoder.eof:
                decoder = None
    if decoder is not None:
        raise EOFError("the last frame has no end")
