"""What the work on a unit leaves on record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from sisa_scale.data.build.inputs.input_file import Input
from sisa_scale.data.build.texts.long_text import TextDigest
from sisa_scale.data.build.texts.records import BadRecord
from sisa_scale.errors import Problem

# How many bad records of a part are listed; all are counted.
MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class BadEntry:
    """A bad record. file: its name in the data set; where, found, allowed, remedy: of its `Problem`."""

    file: str
    where: str
    found: str
    allowed: str
    remedy: str

    @property
    def problem(self) -> Problem:
        """What an error says of it."""
        return Problem(self.where, self.found, self.allowed, self.remedy)

    @classmethod
    def of(cls, record: BadRecord, file: Input) -> Self:
        """Return the entry of a record."""
        problem = record.problem
        return cls(file.name or file.label, problem.where, problem.found, problem.allowed, problem.remedy)


@dataclass(slots=True)
class PartSurvey:
    """What was found by reading a part without tokenizing it.

    num_bytes: unpacked; num_documents: long enough; num_text_bytes, longest_bytes: of the documents in UTF-8, of all
    and of the longest; lowest: the lowest of the numbers by which documents are held out, each once; digest: of
    a `.txt` file.
    """

    num_bytes: int = 0
    num_documents: int = 0
    num_text_bytes: int = 0
    longest_bytes: int = 0
    lowest: list[int] = field(default_factory=list)
    digest: TextDigest | None = None


@dataclass(slots=True)
class PartSummary:
    """Counts of one part.

    num_records: its lines or rows up to the last record; num_texts: those with a text; sha256: of the stored file,
    where this part begins it; removed: documents left out, by reason; bad: the first bad records.
    """

    num_records: int = 0
    num_texts: int = 0
    sha256: str | None = None
    removed: dict[str, int] = field(default_factory=dict)
    bad: list[BadEntry] = field(default_factory=list)
    survey: PartSurvey | None = None

    def remove(self, reason: str, count: int = 1) -> None:
        """Count documents that are left out."""
        self.removed[reason] = self.removed.get(reason, 0) + count

    def add_bad(self, record: BadRecord, file: Input) -> None:
        """Count a bad record, and list it if it is among the first."""
        self.remove("bad_record")
        if len(self.bad) < MAX_LISTED:
            self.bad.append(BadEntry.of(record, file))


@dataclass(slots=True)
class UnitSummary:
    """Counts of one unit. num_bytes: of UTF-8 text that went in; num_tokens: with the ends of documents."""

    parts: list[PartSummary]
    num_documents: int = 0
    num_bytes: int = 0
    num_tokens: int = 0
    num_read_bytes: int = 0


def parse_summary(content: Mapping[str, Any]) -> UnitSummary:
    """Return a summary from its JSON."""
    return UnitSummary(**{**content, "parts": [_parse_part(part) for part in content["parts"]]})


def _parse_part(content: Mapping[str, Any]) -> PartSummary:
    survey = content["survey"]
    if survey is not None:
        digest = survey["digest"]
        digest = digest and TextDigest(**{**digest, "cuts": tuple(digest["cuts"])})
        survey = PartSurvey(**{**survey, "digest": digest})
    return PartSummary(**{**content, "bad": [BadEntry(**entry) for entry in content["bad"]], "survey": survey})
