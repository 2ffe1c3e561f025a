"""The texts of one part of a unit, cleaned, with the counts of what is left out."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sisa_scale.data.build.engines import open_engine
from sisa_scale.data.build.settings import WorkSettings
from sisa_scale.data.build.shards.summaries import PartSummary, UnitSummary
from sisa_scale.data.build.texts.cuts import IsExact
from sisa_scale.data.build.texts.long_text import read_pieces
from sisa_scale.data.build.texts.record_files import Part, read_records, stored_start, text_chunks
from sisa_scale.data.build.texts.records import BadRecord, BadRecordError


@dataclass(frozen=True, slots=True)
class Text:
    """A document, or a stretch of one. split, hash: where they are known already."""

    text: str
    index: int
    split: int | None = None
    hash: bytes | None = None
    is_first: bool = True
    is_last: bool = True


def read_part(part: Part, settings: WorkSettings, counts: PartSummary, summary: UnitSummary) -> Iterator[Text]:
    """Yield the documents of a part that are long enough, in the chosen form, and count the others."""
    if part.stretch is not None:
        yield from _stretch_texts(part, settings, counts)
        return
    digest = hashlib.sha256()
    stored = chunks = None
    if part.file.kind != "parquet" and (part.is_whole or not part.file.packing):
        stored = _counted(part.file.chunks(stored_start(part)), summary, digest if part.is_whole else None)
        chunks = text_chunks(part, stored)
    for record in read_records(part, settings.cleaning.text_field, chunks):
        counts.num_records = record.index + 1
        if isinstance(record, BadRecord):
            if settings.on_bad_record == "fail":
                raise BadRecordError.many([record.problem])
            counts.add_bad(record, part.file)
        elif record.text:
            counts.num_texts += 1
            yield from _clean(record.text, record.index, settings, counts)
    if stored is not None and part.is_whole:
        for _ in stored:  # what a damaged stream has left unread
            pass
        counts.sha256 = digest.hexdigest()
    elif part.start == 0:
        counts.sha256 = _sha256(part.file.chunks())


def _clean(text: str, index: int, settings: WorkSettings, counts: PartSummary) -> Iterator[Text]:
    cleaning = settings.cleaning
    pieces: list[tuple[str, int | None]] = [(text, None)]
    if settings.cutting is not None:
        pieces = [*settings.cutting.cut(text)]
    for piece, split in pieces:
        normal = cleaning.normalize(piece)
        if len(normal) < cleaning.min_characters:
            counts.remove("below_min_characters")
        else:
            yield Text(normal, index, split)


def _stretch_texts(part: Part, settings: WorkSettings, counts: PartSummary) -> Iterator[Text]:
    stretch, stop = part.stretch, part.stop
    if stretch is None or stop is None:
        return
    counts.num_records = counts.num_texts = int(stretch.is_first)
    if part.start == 0:
        counts.sha256 = _sha256(part.file.chunks())
    is_first, before = stretch.is_first, None
    for piece in read_pieces(part.file, part.start, stop, exactness(settings)):
        if before is not None:
            yield Text(before, 0, stretch.split, bytes.fromhex(stretch.hash), is_first, is_last=False)
            is_first = False
        before = settings.cleaning.normalize(piece)
    if before is not None:
        yield Text(before, 0, stretch.split, bytes.fromhex(stretch.hash), is_first, stretch.is_last)


def exactness(settings: WorkSettings) -> IsExact:
    """Return what says whether two texts have, one after the other, the ids of both joined."""
    engine = open_engine(settings.engine, settings.engine_version, settings.tokenizer, settings.tokenizer_sha256)

    def is_exact(left: str, right: str) -> bool:
        ids, offsets = engine.encode_batch([left + right, left, right])
        return bool(np.array_equal(ids[: offsets[1]], ids[offsets[1] :]))

    return is_exact


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
