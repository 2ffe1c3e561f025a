"""Units of work: consecutive parts of the inputs that one worker reads at a time.

A unit holds about `unit_bytes` of text. A file is cut into as many parts as that takes: JSON lines at any line, packed
or not, parquet at row groups, a long text where its digest says; small files share a unit. The cut decides only who
reads what: it leaves no trace in the data set.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from sisa_scale.data.build.inputs.input_file import Input
from sisa_scale.data.build.texts.cleaning import is_heldout_number
from sisa_scale.data.build.texts.cuts import Cutting
from sisa_scale.data.build.texts.long_text import TextDigest, place_stretches
from sisa_scale.data.build.texts.parquet import num_row_groups
from sisa_scale.data.build.texts.record_files import Part, Stretch

UNIT_BYTES = 64 << 20

_UNPACKED_RATIO = 4  # of a packed text file, about
_MAX_PARTS = 4096


@dataclass(frozen=True, slots=True)
class Measure:
    """What is known of a file before it is cut. num_bytes: unpacked; digest: of a text."""

    num_bytes: int
    digest: TextDigest | None = None


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


def plan_units(
    files: Sequence[Input],
    unit_bytes: int,
    measures: Mapping[Input, Measure] | None = None,
    *,
    heldout_fraction: float = 0.0,
    cutting: Cutting | None = None,
) -> list[Unit]:
    """Cut the inputs into units, in order.

    measures: of the files that were read before; a packed file or a text without one is a single part, however long.
    heldout_fraction, cutting: how documents are held out, for texts that are cut.
    """
    units: list[Unit] = []
    pending: list[tuple[int, Part, int]] = []
    size = 0
    for source, file in enumerate(files):
        measure = (measures or {}).get(file)
        ratio: float = _UNPACKED_RATIO if file.packing else 1
        if measure is not None and file.kind != "parquet":
            ratio = measure.num_bytes / max(1, file.num_bytes)
        for part, num_bytes in _parts(file, unit_bytes, measure, heldout_fraction, cutting):
            weight = int(num_bytes * ratio)
            if pending and (size + weight > unit_bytes or len(pending) >= _MAX_PARTS):
                units.append(_unit(pending))
                pending, size = [], 0
            pending.append((source, part, num_bytes))
            size += weight
    return [*units, _unit(pending)] if pending else units


def _unit(pending: Sequence[tuple[int, Part, int]]) -> Unit:
    sources, parts, sizes = zip(*pending, strict=True)
    return Unit(parts, sources, sum(sizes))


def _parts(
    file: Input, unit_bytes: int, measure: Measure | None, heldout_fraction: float, cutting: Cutting | None
) -> Iterator[tuple[Part, int]]:
    """Yield the parts of a file, and how many of its stored bytes each takes, about."""
    num_bytes = file.num_bytes if measure is None or file.kind == "parquet" else measure.num_bytes
    num_parts = -(-num_bytes // unit_bytes)
    if file.kind == "txt" and measure is not None and measure.digest is not None and len(measure.digest.cuts) > 1:
        for part in _stretches(file, measure.digest, heldout_fraction, cutting):
            size = (part.stop or 0) - part.start
            yield part, file.num_bytes * size // max(1, measure.num_bytes)
        return
    if num_parts < 2 or file.kind == "txt" or (file.packing and measure is None):
        yield Part(file), file.num_bytes
        return
    end = num_row_groups(file) if file.kind == "parquet" else num_bytes
    cuts = sorted({end * number // num_parts for number in range(num_parts)})
    for start, stop in zip(cuts, [*cuts[1:], end], strict=True):
        yield Part(file, start, None if stop == end else stop), file.num_bytes * (stop - start) // end


def _stretches(file: Input, digest: TextDigest, heldout_fraction: float, cutting: Cutting | None) -> Iterator[Part]:
    """Yield the stretches of a long text: of one document, or of those that it is cut into to hold some out."""
    documents = [(0, digest.num_bytes, int(is_heldout_number(digest.heldout, heldout_fraction)))]
    if cutting is not None:
        documents = place_stretches(file, cutting, digest.num_bytes)
    for number, (begin, end, split) in enumerate(documents):
        bounds = [begin, *(cut for cut in digest.cuts if begin < cut < end), end]
        content = digest.content if cutting is None else _numbered(digest.content, number)
        for start, stop in pairwise(bounds):
            yield Part(file, start, stop, Stretch(start == begin, stop == end, split, content))


def _numbered(content: str, number: int) -> str:
    digest = hashlib.blake2b(f"{content} {number}".encode(), digest_size=len(content) // 2)
    return digest.hexdigest()
