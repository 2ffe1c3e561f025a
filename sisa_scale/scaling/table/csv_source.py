"""Read a delimited text file with a header into columns of text. What the columns mean stands in `table`."""

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from sisa_scale.scaling.table.notices import Notice, refusal

_DELIMITERS = ",;\t"
_Line = tuple[int, str]  # its number in the file, and its text


@dataclass(frozen=True, slots=True)
class Source:
    """Columns of text by normalised name, with the line number of every row and the SHA-256 of the file."""

    path: str
    sha256: str
    columns: dict[str, list[str]]
    lines: list[int]
    notices: tuple[Notice, ...] = ()


def normalise(name: str) -> str:
    """Return a column name in lower case with underscores."""
    return "_".join(name.strip().lower().replace("-", " ").replace("_", " ").split())


def read_source(path: Path) -> Source:
    """Read a CSV: UTF-8 with or without BOM; comma, semicolon or tab; empty lines and comments (#) are skipped.

    A header behind a # counts where the first row is numbers. Raises RefusalError `bad-table` for a file without
    header or rows, for repeated column names, for ragged rows, and for names of rows that begin with #.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise refusal(
            "bad-table", path, found=str(error), allowed="a UTF-8 CSV file is read", remedy="Check the path."
        ) from None
    written = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    kept = [(number, line) for number, line in written if not line.lstrip().startswith("#")]
    comments = [(number, line) for number, line in written if line.lstrip().startswith("#")]
    header_line = _header_behind_hash(kept, comments)
    if header_line is not None:
        comments = [one for one in comments if one != header_line]
        kept = [(header_line[0], header_line[1].lstrip().removeprefix("#")), *kept]
    if len(kept) < 2:
        raise refusal(
            "bad-table", path, found="no rows", allowed="a header and one row a run", remedy="Check the file."
        )
    delimiter = max(_DELIMITERS, key=kept[0][1].count)
    header, *rows = _cells([line for _, line in kept], delimiter)
    names = [normalise(name) for name in header]
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        raise refusal(
            "bad-table",
            path,
            found=f"the column {repeated[0]} more than once",
            allowed="every column has its own name",
            remedy="Rename or remove one of them.",
        )
    lines = [number for number, _ in kept[1:]]
    for number, row in zip(lines, rows, strict=False):
        if len(row) != len(names):
            raise refusal(
                "bad-table",
                f"{path}:{number}",
                found=f"{len(row)} cells",
                allowed=f"the header has {len(names)}",
                remedy="Write decimals with a point and thousands without separators (1300000, not 1,300,000); quote "
                "texts that contain the delimiter.",
            )
    notices = _check_comments(path, comments, kept[0][0], delimiter, rows)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names) if name}
    return Source(str(path), hashlib.sha256(content).hexdigest(), columns, lines, notices)


def _cells(lines: list[str], delimiter: str) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter)]


def _header_behind_hash(kept: list[_Line], comments: list[_Line]) -> _Line | None:
    """Return the comment right above a first row of numbers that has as many cells: its header."""
    above = [one for one in comments if kept and one[0] < kept[0][0]]
    if not above:
        return None
    delimiter = max(_DELIMITERS, key=kept[0][1].count)
    (names,), (first,) = _cells([above[-1][1]], delimiter), _cells([kept[0][1]], delimiter)
    is_header = len(names) == len(first) > 1 and not any(map(_is_number, names))
    return above[-1] if is_header and any(map(_is_number, first)) else None


def _check_comments(
    path: Path, comments: list[_Line], header: int, delimiter: str, rows: list[list[str]]
) -> tuple[Notice, ...]:
    """Tell comments from rows: a comment with as many cells as the rows is a row that somebody left out, or whose name
    begins with #. The former is said, where the first column is numbers; the latter cannot be told for certain.
    """
    width = len(rows[0])
    found = [n for n, line in comments if n > header and width > 1 and len(_cells([line], delimiter)[0]) == width]
    if not found:
        return ()
    where = f"line {found[0]}" + (f" and {len(found) - 1} more" if len(found) > 1 else "")
    if all(_is_number(row[0]) for row in rows):
        return (Notice("commented-rows", f"{len(found)} rows behind # are left out: {where}"),)
    raise refusal(
        "bad-table",
        path,
        found=f"{len(found)} of {len(found) + len(rows)} rows begin with # ({where})",
        allowed="lines that begin with # are comments; these have as many cells as rows",
        remedy='Quote the first cell of rows that count ("#1",...), or remove the # and name the reason for rows that '
        "do not in a column `excluded`.",
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
