"""Numbers in cells: what is read, and what to write instead of what is not."""

import re

from sisa_scale.scaling.fit.arrays import Floats, floats
from sisa_scale.scaling.table.csv_source import Source
from sisa_scale.scaling.table.notices import refusal

_SUFFIX = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_WITH_SUFFIX = re.compile(r"([\d.]+)\s*([kmbgt])", re.IGNORECASE)
_GROUPED = re.compile(r"\d{1,3}([,.'\s])\d{3}(\1\d{3})*")
_DECIMAL_COMMA = re.compile(r"\d+,\d+(e[+-]?\d+)?", re.IGNORECASE)
_TIMES_TEN = re.compile(r"([\d.]+)\s*[x×*·]\s*10\s*(?:\^|\*\*)\s*(\d+)", re.IGNORECASE)


def read_numbers(source: Source, name: str, cells: list[str], kept: list[int], *, is_needed: bool) -> Floats | None:
    """Return the numbers of a column; None for an optional column that is empty. Raises RefusalError `bad-number`."""
    if not is_needed and all(not cells[i] for i in kept):
        return None
    values, bad = [], []
    for i in kept:
        try:
            value = float(cells[i])
        except ValueError:
            value = float("nan")
        if not 0 < value < float("inf"):
            bad.append(i)
        values.append(value)
    if bad:
        shown = ", ".join(f"{cells[i] or 'nothing'!s} in line {source.lines[i]}" for i in bad[:5])
        plain = plain_number(cells[bad[0]], is_count=name != "loss")
        excluded = "give the reason why they do not count in a column `excluded`."
        raise refusal(
            "bad-number",
            f"{source.path} {name}",
            found=shown + (f" and {len(bad) - 5} more" if len(bad) > 5 else ""),
            allowed="every row has a positive finite number with a decimal point, without unit or thousands separators",
            remedy=f"Correct the rows, or {excluded}" if plain is None else f"Write {plain} for {cells[bad[0]]}.",
        )
    return floats(values)


def read_errors(source: Source, cells: list[str], kept: list[int]) -> Floats | None:
    """Return standard errors, NaN for empty cells and 0; None where all are. Raises RefusalError."""
    filled = [i for i in kept if cells[i].strip() not in ("", "0", "0.0", "nan")]
    values = read_numbers(source, "loss_se", cells, filled, is_needed=False)
    if not filled or values is None:
        return None
    found = dict(zip(filled, values.tolist(), strict=True))
    return floats([found.get(i, float("nan")) for i in kept])


def plain_number(cell: str, *, is_count: bool) -> str | None:
    """Return a number that people write in another way as it is read: 1300000 for 1,300,000; None for anything else.

    is_count: 1,300 is thirteen hundred; else it is a decimal comma.
    """
    cell = cell.strip()
    try:
        if found := _WITH_SUFFIX.fullmatch(cell):
            return f"{float(found[1]) * _SUFFIX[found[2].lower()]:.10g}"
        if found := _TIMES_TEN.fullmatch(cell):
            return f"{float(found[1])}e{found[2]}"
    except ValueError:
        return None
    if (found := _GROUPED.fullmatch(cell)) and (is_count or len(cell) > 7):
        return cell.replace(found[1], "")
    return cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else None
