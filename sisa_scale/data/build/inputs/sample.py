"""A few documents of a corpus, to try tokenizers and engines on."""

from collections.abc import Iterator, Sequence

from sisa_scale.data.build.texts.cleaning import Cleaning
from sisa_scale.data.build.texts.long_text import open_bytes
from sisa_scale.data.build.texts.record_files import read_records
from sisa_scale.data.build.texts.records import Record
from sisa_scale.data.build.units import Unit

_SAMPLED_UNITS, _SAMPLED_DOCUMENTS, _SAMPLED_BYTES = 16, 64, 1 << 17


def sample_texts(units: Sequence[Unit], cleaning: Cleaning) -> Iterator[str]:
    """Yield the first documents of some units spread over the corpus, the beginnings of long ones."""
    for unit in units[:: -(-len(units) // _SAMPLED_UNITS)]:
        part = unit.parts[0]
        if part.stretch is not None:
            raw = open_bytes(part.file, part.start).read(_SAMPLED_BYTES)
            yield cleaning.normalize(raw.decode(errors="ignore"))
            continue
        texts = (record.text for record in read_records(part, cleaning.text_field) if isinstance(record, Record))
        for _, text in zip(range(_SAMPLED_DOCUMENTS), filter(None, texts), strict=False):
            yield cleaning.normalize(text[:_SAMPLED_BYTES])
