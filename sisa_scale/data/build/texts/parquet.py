"""Records of parquet files: strings of any of Arrow's kinds, one column or a field inside one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sisa_scale.data.build.inputs.input_file import Input, is_remote
from sisa_scale.data.build.texts.records import BadRecord, BadRecordError, Record, decode
from sisa_scale.errors import DataError

_ROWS = 1024


def parquet_records(file: Input, start: int, stop: int | None, field: str) -> Iterator[Record | BadRecord]:
    """Yield the rows of the row groups [start, stop); rows are counted from 0 in them, and from 1 in messages."""
    import pyarrow

    with open_parquet(file) as parquet:
        path = _column_path(parquet.schema_arrow, field, file)
        last = parquet.num_row_groups if stop is None else stop
        first_row = sum(parquet.metadata.row_group(number).num_rows for number in range(start))
        row = 0
        groups = list(range(start, last))
        for batch in parquet.iter_batches(_ROWS, row_groups=groups, columns=[".".join(path)], use_threads=False):
            column = batch.column(0)
            for name in path[1:]:
                column = pyarrow.compute.struct_field(column, name)
            for number, text in enumerate(_strings(column), start=row):
                if isinstance(text, str):
                    yield Record(text, number)
                    continue
                where = f"{file.label}, row {first_row + number + 1}"
                try:
                    yield Record(_row_text(text, where, field), number)
                except BadRecordError as error:
                    yield BadRecord(number, error.problems[0])
            row += batch.num_rows


def num_row_groups(file: Input) -> int:
    """Return the number of row groups of a parquet file."""
    with open_parquet(file) as parquet:
        return int(parquet.num_row_groups)


def _strings(column: Any) -> list[str | bytes | None]:
    """Return the values of a column: bytes where they are, or where some are not UTF-8."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        values: list[str | bytes | None] = column.to_pylist()
    except (UnicodeDecodeError, pyarrow.ArrowInvalid):
        values = column.cast(pyarrow.large_binary()).to_pylist()
    return values


def _row_text(text: bytes | None, where: str, field: str) -> str:
    if text is None:
        raise BadRecordError.at(
            where,
            found=f"no value in the column {field!r}",
            allowed="every row of the column holds a string",
            remedy="Remove the row, or write an empty string there.",
        )
    return decode(text, where)


def _column_path(schema: Any, field: str, file: Input) -> list[str]:
    """Return the names that lead to a column of strings: of a top-level column, then of fields of structs."""
    import pyarrow

    path, kind = [field], schema.field(field).type if field in schema.names else None
    if kind is None and "." in field:
        path = field.split(".")
        kind = schema.field(path[0]).type if path[0] in schema.names else None
        for name in path[1:]:
            is_there = kind is not None and pyarrow.types.is_struct(kind) and kind.get_field_index(name) >= 0
            kind = kind.field(name).type if kind is not None and is_there else None
    value = kind.value_type if kind is not None and pyarrow.types.is_dictionary(kind) else kind
    checks = ("is_string", "is_large_string", "is_string_view", "is_binary", "is_large_binary", "is_binary_view")
    if value is None or not any(getattr(pyarrow.types, check)(value) for check in checks):
        raise DataError.at(
            file.label,
            found=f"the column {field!r} of type {kind}" if kind else f"the columns {', '.join(schema.names)}",
            allowed=f"a column {field!r} of type string",
            remedy="Name the column that holds the documents with --text-field.",
        )
    return path


@contextmanager
def open_parquet(file: Input) -> Iterator[Any]:
    """Open a parquet file; what pyarrow or the connection raises inside the block becomes a DataError."""
    from pyarrow.parquet import ParquetFile

    try:
        with file.open() as stream:
            yield ParquetFile(stream)
    except (DataError, GeneratorExit):
        raise
    except Exception as error:  # pyarrow's, or those of the protocol
        kind = DataError if is_remote(file.url) or getattr(error, "errno", None) else BadRecordError
        raise kind.at(
            file.label,
            found=f"a file that cannot be read as parquet ({str(error).partition(chr(10))[0]})",
            allowed=".parquet files are whole",
            remedy="Copy or write the file again.",
        ) from error
