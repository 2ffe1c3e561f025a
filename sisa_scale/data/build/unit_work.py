"""The work on one unit: read, clean, tokenize, write. A pure function of its arguments, whoever runs it, and when.

What it leaves in the staging directory appears under its final names only when whole, the summary last:

    KEY.train.tokens, KEY.heldout.tokens    the documents of a split one after the other, each with its end
    KEY.documents                           one `DOCUMENT` record for each document in them, in reading order
    KEY.json                                `UnitSummary`
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from sisa_scale.data.build.cleaning import HASH_BYTES, Cleaning, content_hash, is_heldout_bytes
from sisa_scale.data.build.engines import Engine, open_engine
from sisa_scale.data.build.text import Part, read_texts, stored_chunks
from sisa_scale.data.build.units import Unit
from sisa_scale.errors import DataError
from sisa_scale.files import atomic_writer, write_json

SPLITS = ("train", "heldout")
# num_tokens: with the end of the document; part: its number in the unit; index: the number of its record in that part,
# records without text not counted; hash: of its text, zero where duplicates are kept.
DOCUMENT = np.dtype(
    [
        ("num_tokens", "<u8"),
        ("num_bytes", "<u8"),
        ("index", "<u8"),
        ("part", "<u4"),
        ("split", "<u4"),
        ("hash", "<u8", (HASH_BYTES // 8,)),
    ]
)

_BATCH_CHARACTERS = 1 << 21
_BATCH_DOCUMENTS = 1024
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class WorkSettings:
    """What the work on a unit depends on besides the unit. key: stands for all of it in the names of the results."""

    key: str
    tokenizer: Path
    tokenizer_sha256: str
    engine: str
    engine_version: str
    eos_id: int
    vocab_size: int
    dtype: str
    cleaning: Cleaning
    heldout_fraction: float
    seed: int


@dataclass(slots=True)
class PartSummary:
    """Counts of one part. num_records: with a text; sha256: of the stored file, where this part begins it."""

    num_records: int = 0
    sha256: str | None = None
    removed: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class UnitSummary:
    """Counts of one unit. num_bytes: of UTF-8 text that went in; num_tokens: with the ends of documents."""

    parts: list[PartSummary]
    num_documents: int = 0
    num_bytes: int = 0
    num_tokens: int = 0
    num_read_bytes: int = 0


Report = Callable[[UnitSummary, str], None]


def unit_path(directory: Path, key: str, what: str) -> Path:
    """Return the path of one of the results of a unit."""
    return directory / f"{key}.{what}"


def load_summary(directory: Path, unit: Unit, settings: WorkSettings) -> UnitSummary | None:
    """Return the summary of a unit whose results are there, else None."""
    path = unit_path(directory, unit.key(settings.key), "json")
    if not path.is_file():
        return None
    content = json.loads(path.read_bytes())
    return UnitSummary(**content | {"parts": [PartSummary(**part) for part in content["parts"]]})


def work_on_unit(unit: Unit, settings: WorkSettings, directory: Path, report: Report) -> UnitSummary:
    """Do the work on a unit. report: told the counts so far and the file, often.

    Raises DataError for input that cannot be read, ConfigError if the engine is not there.
    """
    engine = open_engine(settings.engine, settings.engine_version, settings.tokenizer, settings.tokenizer_sha256)
    summary = UnitSummary([PartSummary() for _ in unit.parts])
    key = unit.key(settings.key)
    with ExitStack() as stack:
        outputs = {
            what: stack.enter_context(atomic_writer(unit_path(directory, key, what)))
            for what in (*(f"{split}.tokens" for split in SPLITS), "documents")
        }
        for number, part in enumerate(unit.parts):
            counts = summary.parts[number]
            records = _records(part, settings.cleaning, counts, summary)
            for batch in _batches(records):
                rows = _encode(batch, engine, settings, part, counts, outputs)
                rows["part"] = number
                outputs["documents"].write(rows.tobytes())
                summary.num_documents += rows.size
                summary.num_bytes += int(rows["num_bytes"].sum())
                summary.num_tokens += int(rows["num_tokens"].sum())
                report(summary, part.file.url)
    summary.num_read_bytes = unit.num_bytes
    write_json(unit_path(directory, key, "json"), asdict(summary))
    return summary


@dataclass(frozen=True, slots=True)
class _Record:
    text: str
    index: int


def _records(part: Part, cleaning: Cleaning, counts: PartSummary, summary: UnitSummary) -> Iterator[_Record]:
    """Yield the documents of a part that are long enough, in the chosen form, and count the others."""
    if part.file.kind == "parquet":
        chunks = None
        counts.sha256 = _sha256(part.file.chunks()) if part.start == 0 else None
    else:
        digest = hashlib.sha256()
        chunks = _counted(stored_chunks(part), summary, digest if part.is_whole else None)
    for index, text in enumerate(read_texts(part, cleaning.text_field, chunks)):
        counts.num_records += 1
        normal = cleaning.normalize(text)
        if len(normal) < cleaning.min_characters:
            counts.removed["below_min_characters"] = counts.removed.get("below_min_characters", 0) + 1
        else:
            yield _Record(normal, index)
    if chunks is None:
        return
    if part.is_whole:
        counts.sha256 = digest.hexdigest()
    elif part.start == 0:
        counts.sha256 = _sha256(part.file.chunks())


def _counted(chunks: Iterable[bytes], summary: UnitSummary, digest: Any) -> Iterator[bytes]:
    for chunk in chunks:
        summary.num_read_bytes += len(chunk)
        if digest is not None:
            digest.update(chunk)
        yield chunk


def _sha256(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _batches(records: Iterable[_Record]) -> Iterator[list[_Record]]:
    batch: list[_Record] = []
    num_characters = 0
    for record in records:
        batch.append(record)
        num_characters += len(record.text)
        if num_characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _encode(
    batch: list[_Record],
    engine: Engine,
    settings: WorkSettings,
    part: Part,
    counts: PartSummary,
    outputs: dict[str, IO[bytes]],
) -> npt.NDArray[Any]:
    """Tokenize a batch, write the tokens of each split, and return the records of the documents that are kept."""
    ids, offsets = engine.encode_batch([record.text for record in batch])
    _check_ids(ids, offsets, settings, part, batch)
    rows = np.zeros(len(batch), dtype=DOCUMENT)
    rows["num_tokens"] = np.diff(offsets) + 1
    rows["index"] = [record.index for record in batch]
    raws = [record.text.encode() for record in batch]
    rows["num_bytes"] = [len(raw) for raw in raws]
    if settings.heldout_fraction:
        rows["split"] = [is_heldout_bytes(raw, settings.heldout_fraction, settings.seed) for raw in raws]
    if settings.cleaning.deduplicate:
        rows["hash"] = np.frombuffer(b"".join(map(content_hash, raws)), "<u8").reshape(len(raws), -1)
    is_kept = np.diff(offsets) >= settings.cleaning.min_tokens
    if not is_kept.all():
        counts.removed["below_min_tokens"] = counts.removed.get("below_min_tokens", 0) + int((~is_kept).sum())
    tokens = np.insert(ids.astype(settings.dtype), offsets[1:], settings.eos_id)
    for number, split in enumerate(SPLITS):
        is_chosen = is_kept & (rows["split"] == number)
        chosen = tokens if is_chosen.all() else tokens[np.repeat(is_chosen, rows["num_tokens"].astype(np.int64))]
        outputs[f"{split}.tokens"].write(chosen.tobytes())
    return rows[is_kept]


def _check_ids(
    ids: npt.NDArray[Any], offsets: npt.NDArray[Any], settings: WorkSettings, part: Part, batch: list[_Record]
) -> None:
    """Refuse ids that would end a document early or that do not exist."""
    is_wrong = (ids == settings.eos_id) | (ids >= settings.vocab_size)
    if not is_wrong.any():
        return
    at = int(is_wrong.argmax())
    number = int(np.searchsorted(offsets, at, side="right")) - 1
    where = part.file.url if part.start == 0 else f"{part.file.url} from {part.start}"
    raise DataError.at(
        f"{where}, document {batch[number].index}",
        found=f"text that encodes to the end-of-document id {settings.eos_id}"
        if ids[at] == settings.eos_id
        else f"text that encodes to the id {ids[at]}",
        allowed=f"only the end of a document has this id, and ids are below {settings.vocab_size}",
        remedy="Use a tokenizer whose special tokens no text can forge.",
    )
