"""Units of work: consecutive parts of the inputs that one worker reads at a time.

A unit holds about `unit_bytes` of text. A plain `.jsonl` file and a parquet file are cut into as many parts as that
takes; a packed file cannot be cut and is one part, however large; small files share a unit. The cut decides only who
reads what: it leaves no trace in the data set.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from sisa_scale.data.build.inputs import Input
from sisa_scale.data.build.text import Part, num_row_groups

UNIT_BYTES = 64 << 20

_UNPACKED_RATIO = 4  # of a packed text file, about
_MAX_PARTS = 4096


@dataclass(frozen=True, slots=True)
class Unit:
    """Parts of files. sources: for each part the number of its file among the inputs; num_bytes: stored, about."""

    parts: tuple[Part, ...]
    sources: tuple[int, ...]
    num_bytes: int

    def key(self, settings: str) -> str:
        """Return the name of its results: another for other files, other parts of them, or other settings."""
        content = json.dumps([settings, [asdict(part) for part in self.parts]])
        return hashlib.sha256(content.encode()).hexdigest()[:24]


def plan_units(files: Sequence[Input], unit_bytes: int) -> list[Unit]:
    """Cut the inputs into units, in order."""
    units: list[Unit] = []
    pending: list[tuple[int, Part, int]] = []
    size = 0
    for source, file in enumerate(files):
        for part, num_bytes in _parts(file, unit_bytes):
            weight = num_bytes * (_UNPACKED_RATIO if file.packing else 1)
            if pending and (size + weight > unit_bytes or len(pending) >= _MAX_PARTS):
                units.append(_unit(pending))
                pending, size = [], 0
            pending.append((source, part, num_bytes))
            size += weight
    return [*units, _unit(pending)] if pending else units


def _unit(pending: Sequence[tuple[int, Part, int]]) -> Unit:
    sources, parts, sizes = zip(*pending, strict=True)
    return Unit(parts, sources, sum(sizes))


def _parts(file: Input, unit_bytes: int) -> Iterator[tuple[Part, int]]:
    num_parts = -(-file.num_bytes // unit_bytes)
    if num_parts < 2 or file.packing or file.kind == "txt":
        yield Part(file), file.num_bytes
        return
    end = num_row_groups(file) if file.kind == "parquet" else file.num_bytes
    cuts = sorted({end * number // num_parts for number in range(num_parts)})
    for start, stop in zip(cuts, [*cuts[1:], end], strict=True):
        yield Part(file, start, None if stop == end else stop), file.num_bytes * (stop - start) // end
