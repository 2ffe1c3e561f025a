"""The work on one unit: read, clean, tokenize, write. A pure function of its arguments, whoever runs it, and when.

What it leaves in the staging directory appears under its final names only when whole, the summary last:

    KEY.train.tokens, KEY.heldout.tokens    the documents of a split one after the other, each with its end
    KEY.documents                           one `DOCUMENT` record for each document in them, in reading order
    KEY.json                                `UnitSummary`

A document that is longer than a unit is several records, each for a stretch of it; the first has its hash.
In the stage "survey" nothing is tokenized, and the summary is all that is left.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from sisa_scale.data.build.engines import Engine, open_engine
from sisa_scale.data.build.inputs.survey import survey_part
from sisa_scale.data.build.settings import WorkSettings
from sisa_scale.data.build.shards.summaries import PartSummary, UnitSummary, parse_summary
from sisa_scale.data.build.texts.cleaning import HASH_BYTES, content_hash, is_heldout_bytes
from sisa_scale.data.build.texts.cuts import split_text
from sisa_scale.data.build.texts.record_files import Part
from sisa_scale.data.build.texts.unit_texts import Text, exactness, read_part
from sisa_scale.data.build.units import Unit
from sisa_scale.data.problems import os_errors
from sisa_scale.errors import DataError
from sisa_scale.files import atomic_writer, write_json

SPLITS = ("train", "heldout")
# num_tokens: with the end of the document; part: its number in the unit; index: the number of its line or row in that
# part; is_continued: whether it goes on with the document of the record before; hash: of the text of the document, zero
# where duplicates are kept.
DOCUMENT = np.dtype(
    [
        ("num_tokens", "<u8"),
        ("num_bytes", "<u8"),
        ("index", "<u8"),
        ("part", "<u4"),
        ("split", "<u2"),
        ("is_continued", "<u2"),
        ("hash", "<u8", (HASH_BYTES // 8,)),
    ]
)

_BATCH_CHARACTERS = 1 << 21
_BATCH_DOCUMENTS = 1024
_PIECE_CHARACTERS = 1 << 19


Report = Callable[[UnitSummary, str], None]


def unit_path(directory: Path, key: str, what: str) -> Path:
    """Return the path of one of the results of a unit."""
    return directory / f"{key}.{what}"


def load_summary(directory: Path, unit: Unit, settings: WorkSettings) -> UnitSummary | None:
    """Return the summary of a unit whose results are there, else None."""
    path = unit_path(directory, unit.key(settings.key), "json")
    if not path.is_file():
        return None
    summary = parse_summary(json.loads(path.read_bytes()))
    must_fail = settings.stage == "tokenize" and settings.on_bad_record == "fail"
    return None if must_fail and any(part.bad for part in summary.parts) else summary


def work_on_unit(unit: Unit, settings: WorkSettings, directory: Path, report: Report) -> UnitSummary:
    """Do the work on a unit. report: told the counts so far and the file, often.

    Raises DataError for input that cannot be read or a disk that is full, ConfigError if the engine is not there.
    """
    with os_errors(directory):
        summary = UnitSummary([PartSummary() for _ in unit.parts])
        if settings.stage == "survey":
            _survey(unit, settings, summary, report)
        else:
            _tokenize(unit, settings, directory, summary, report)
        summary.num_read_bytes = unit.num_bytes
        write_json(unit_path(directory, unit.key(settings.key), "json"), asdict(summary))
    return summary


def _survey(unit: Unit, settings: WorkSettings, summary: UnitSummary, report: Report) -> None:
    for part, counts in zip(unit.parts, summary.parts, strict=True):
        survey_part(part, settings.cleaning, settings.seed, settings.unit_bytes, counts, lambda: exactness(settings))
        summary.num_documents += counts.num_texts
        summary.num_bytes += counts.survey.num_text_bytes if counts.survey else 0
        summary.num_read_bytes += part.file.num_bytes if part.is_whole else 0
        report(summary, part.file.label)


def _tokenize(unit: Unit, settings: WorkSettings, directory: Path, summary: UnitSummary, report: Report) -> None:
    engine = open_engine(settings.engine, settings.engine_version, settings.tokenizer, settings.tokenizer_sha256)
    key = unit.key(settings.key)
    with ExitStack() as stack:
        outputs = {
            what: stack.enter_context(atomic_writer(unit_path(directory, key, what)))
            for what in (*(f"{split}.tokens" for split in SPLITS), "documents")
        }
        for number, part in enumerate(unit.parts):
            counts = summary.parts[number]
            for batch in _batches(read_part(part, settings, counts, summary)):
                rows = _encode(batch, engine, settings, part, counts, outputs)
                rows["part"] = number
                outputs["documents"].write(rows.tobytes())
                summary.num_documents += int((rows["is_continued"] == 0).sum())
                summary.num_bytes += int(rows["num_bytes"].sum())
                summary.num_tokens += int(rows["num_tokens"].sum())
                report(summary, part.file.label)


def _batches(texts: Iterable[Text]) -> Iterator[list[Text]]:
    batch: list[Text] = []
    num_characters = 0
    for text in texts:
        batch.append(text)
        num_characters += len(text.text)
        if num_characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _encode(
    batch: list[Text],
    engine: Engine,
    settings: WorkSettings,
    part: Part,
    counts: PartSummary,
    outputs: dict[str, IO[bytes]],
) -> npt.NDArray[Any]:
    """Tokenize a batch, write the tokens of each split, and return the records of the documents that are kept."""
    ids, offsets = _encode_texts([text.text for text in batch], engine, settings)
    _check_ids(ids, offsets, settings, part, batch)
    rows = np.zeros(len(batch), dtype=DOCUMENT)
    is_last = np.array([text.is_last for text in batch])
    rows["num_tokens"] = np.diff(offsets) + is_last
    rows["index"] = [text.index for text in batch]
    rows["is_continued"] = [not text.is_first for text in batch]
    raws = [text.text.encode() for text in batch]
    rows["num_bytes"] = [len(raw) for raw in raws]
    if settings.heldout_fraction:
        rows["split"] = [
            is_heldout_bytes(raw, settings.heldout_fraction, settings.seed) if text.split is None else text.split
            for raw, text in zip(raws, batch, strict=True)
        ]
    if settings.cleaning.deduplicate:
        hashes = (text.hash or content_hash(raw) for raw, text in zip(raws, batch, strict=True))
        rows["hash"] = np.frombuffer(b"".join(hashes), "<u8").reshape(len(raws), -1)
    is_kept = (np.diff(offsets) >= settings.cleaning.min_tokens) | ~is_last | (rows["is_continued"] == 1)
    if not is_kept.all():
        counts.remove("below_min_tokens", int((~is_kept).sum()))
    tokens = np.insert(ids.astype(settings.dtype), offsets[1:][is_last], settings.eos_id)
    for number, split in enumerate(SPLITS):
        is_chosen = is_kept & (rows["split"] == number)
        chosen = tokens if is_chosen.all() else tokens[np.repeat(is_chosen, rows["num_tokens"].astype(np.int64))]
        outputs[f"{split}.tokens"].write(chosen.tobytes())
    kept: npt.NDArray[Any] = rows[is_kept]
    return kept


def _encode_texts(
    texts: list[str], engine: Engine, settings: WorkSettings
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Tokenize texts; those that are long in pieces, which takes far less memory and gives the same ids."""
    if max(map(len, texts)) <= 2 * _PIECE_CHARACTERS:
        return engine.encode_batch(texts)
    ids, lengths = [], []
    for text in texts:
        pieces = [engine.encode_batch([piece])[0] for piece in split_text(text, _PIECE_CHARACTERS, exactness(settings))]
        ids += [np.array(piece) for piece in pieces]
        lengths.append(sum(piece.size for piece in pieces))
    return np.concatenate(ids), np.cumsum([0, *lengths], dtype=np.int64)


def _check_ids(
    ids: npt.NDArray[Any], offsets: npt.NDArray[Any], settings: WorkSettings, part: Part, batch: list[Text]
) -> None:
    """Refuse ids that would end a document early or that do not exist."""
    is_wrong = (ids == settings.eos_id) | (ids >= settings.vocab_size)
    if not is_wrong.any():
        return
    at = int(is_wrong.argmax())
    number = int(np.searchsorted(offsets, at, side="right")) - 1
    where = part.file.label if part.start == 0 else f"{part.file.label} from {part.start}"
    raise DataError.at(
        f"{where}, document {batch[number].index}",
        found=f"text that encodes to the end-of-document id {settings.eos_id}"
        if ids[at] == settings.eos_id
        else f"text that encodes to the id {ids[at]}",
        allowed=f"only the end of a document has this id, and ids are below {settings.vocab_size}",
        remedy="Use a tokenizer whose special tokens no text can forge.",
    )
