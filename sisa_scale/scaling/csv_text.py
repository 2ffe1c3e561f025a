"""Rows as the text of a CSV file."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV; all keys of all rows are columns, numbers have 10 digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return f"{value:.10g}" if np.isfinite(value) else ""
    return value
