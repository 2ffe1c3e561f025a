"""The inputs read once before anything is tokenized: what is bad, how many documents there are, how long texts are.

JSON lines and parquet on servers are not read twice: of them a survey knows nothing.
"""

import heapq
from collections.abc import Callable, Iterator

from sisa_scale.data.build.inputs.input_file import Input, is_remote
from sisa_scale.data.build.shards.summaries import PartSummary, PartSurvey
from sisa_scale.data.build.texts.cleaning import Cleaning, heldout_number
from sisa_scale.data.build.texts.cuts import IsExact
from sisa_scale.data.build.texts.long_text import digest_text
from sisa_scale.data.build.texts.record_files import Part, read_records, text_chunks
from sisa_scale.data.build.texts.records import BadRecord, BadRecordError

# The lowest numbers that are kept of a part: enough to choose from where documents are few.
NUM_LOWEST = 64


def is_surveyed(file: Input) -> bool:
    """Say whether a file is read in a survey: a text anywhere, since it may be long, the others on this machine."""
    return not is_remote(file.url) or file.kind == "txt"


def survey_part(
    part: Part,
    cleaning: Cleaning,
    seed: int,
    unit_bytes: int,
    counts: PartSummary,
    is_exact: Callable[[], IsExact],
) -> None:
    """Read a part and fill in what is found; a bad record is noted, never raised."""
    survey = counts.survey = PartSurvey()
    if part.file.kind == "txt":
        try:
            digest = digest_text(part.file, cleaning, seed, unit_bytes, is_exact)
        except BadRecordError as error:
            counts.add_bad(BadRecord(0, error.problems[0]), part.file)
            return
        survey.digest, survey.num_bytes = digest, digest.num_bytes
        counts.num_records = counts.num_texts = int(digest.num_bytes > 0)
        if digest.num_bytes and digest.num_characters >= cleaning.min_characters:
            survey.num_documents, survey.lowest = 1, [digest.heldout]
            survey.num_text_bytes = survey.longest_bytes = digest.num_bytes
        return
    lowest: set[int] = set()
    chunks = None if part.file.kind == "parquet" else _counted(text_chunks(part), survey)
    for record in read_records(part, cleaning.text_field, chunks):
        counts.num_records = record.index + 1
        if isinstance(record, BadRecord):
            counts.add_bad(record, part.file)
        elif record.text:
            counts.num_texts += 1
            normal = cleaning.normalize(record.text)
            if len(normal) >= cleaning.min_characters:
                raw = normal.encode()
                survey.num_documents += 1
                survey.num_text_bytes += len(raw)
                survey.longest_bytes = max(survey.longest_bytes, len(raw))
                lowest.add(heldout_number(raw, seed))
                if len(lowest) > 16 * NUM_LOWEST:
                    lowest = set(heapq.nsmallest(NUM_LOWEST, lowest))
    survey.lowest = heapq.nsmallest(NUM_LOWEST, lowest)


def _counted(chunks: Iterator[bytes], survey: PartSurvey) -> Iterator[bytes]:
    for chunk in chunks:
        survey.num_bytes += len(chunk)
        yield chunk
