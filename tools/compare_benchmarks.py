"""Compare two runs of benchmark_step.py and say which rows moved beyond the noise.

    python tools/compare_benchmarks.py BEFORE.json AFTER.json

A row has moved when its speed changed by more than 1 % and by more than the spreads of both runs together; memory when
it changed by more than 2 %. Exit code 1 when a row became slower or larger, or is missing.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

MIN_CHANGE_PERCENT, MIN_MEMORY_PERCENT = 1.0, 2.0


def compare(before: dict[str, Any], after: dict[str, Any] | None) -> tuple[list[str], bool]:
    """Return the row of the table and whether something became worse."""
    if after is None:
        return [before["recipe"], str(before["tokens/s"]), "-", "-", "-", "missing"], True
    speed = 100 * (after["tokens/s"] / before["tokens/s"] - 1)
    noise = max(MIN_CHANGE_PERCENT, before["spread %"] + after["spread %"])
    memory = 100 * (after["peak GB"] / before["peak GB"] - 1) if before["peak GB"] and after["peak GB"] else 0.0
    words = ["slower" if speed < 0 else "faster"] if abs(speed) > noise else []
    words += ["larger" if memory > 0 else "smaller"] if abs(memory) > MIN_MEMORY_PERCENT else []
    figures = [
        str(before["tokens/s"]),
        str(after["tokens/s"]),
        f"{speed:+.1f} % (noise {noise:.1f})",
        f"{memory:+.1f} %",
    ]
    return [before["recipe"], *figures, ", ".join(words) or "same"], bool({"slower", "larger"} & set(words))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    arguments = parser.parse_args()
    old, new = (json.loads(path.read_text()) for path in (arguments.before, arguments.after))
    by_recipe = {row["recipe"]: row for row in new}
    table = Table("recipe", "before", "after", "tokens/s", "memory", "verdict")
    is_worse = False
    for row in old:
        cells, is_row_worse = compare(row, by_recipe.get(row["recipe"]))
        table.add_row(*cells)
        is_worse |= is_row_worse
    Console().print(table)
    sys.exit(int(is_worse))


if __name__ == "__main__":
    main()
