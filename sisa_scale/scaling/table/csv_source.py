"""Read a delimited text file with a header into columns of text. What the columns mean stands in `table`."""

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from sisa_scale.scaling.table.notices import refusal

_DELIMITERS = ",;\t"


@dataclass(frozen=True, slots=True)
class Source:
    """Columns of text by normalised name, with the line number of every row and the SHA-256 of the file."""

    path: str
    sha256: str
    columns: dict[str, list[str]]
    lines: list[int]


def normalise(name: str) -> str:
    """Return a column name in lower case with underscores."""
    return "_".join(name.strip().lower().replace("-", " ").replace("_", " ").split())


def read_source(path: Path) -> Source:
    """Read a CSV: UTF-8 with or without BOM; comma, semicolon or tab; empty lines and lines with # are skipped.

    Raises RefusalError `bad-table` for a file without header or rows, for repeated column names and for ragged rows.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise refusal(
            "bad-table", path, found=str(error), allowed="a UTF-8 CSV file is read", remedy="Check the path."
        ) from None
    kept = [
        (number, line)
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if len(kept) < 2:
        raise refusal(
            "bad-table", path, found="no rows", allowed="a header and one row a run", remedy="Check the file."
        )
    delimiter = max(_DELIMITERS, key=kept[0][1].count)
    reader = csv.reader(io.StringIO("\n".join(line for _, line in kept)), delimiter=delimiter)
    header, *rows = ([cell.strip() for cell in row] for row in reader)
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
                remedy="Quote cells that contain the delimiter; write decimals with a point.",
            )
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names) if name}
    return Source(str(path), hashlib.sha256(content).hexdigest(), columns, lines)
