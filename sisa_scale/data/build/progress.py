"""How far a build is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sisa_scale.data.build.shards.summaries import UnitSummary
from sisa_scale.data.build.units import Unit


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far a build is. num_bytes: of UTF-8 text; num_tokens: document ends included; source: the current file.

    stage: "survey", "tokenize" or "assemble"; num_done of num_total: stored bytes of the inputs in the first two,
    tokens in the last.
    """

    num_documents: int
    num_bytes: int
    num_tokens: int
    source: str
    stage: str
    num_done: int
    num_total: int


class Meter:
    """Adds up the counts of all units."""

    def __init__(self, units: Sequence[Unit], stage: str, progress: Callable[[BuildProgress], None] | None) -> None:
        self._units, self._stage, self._progress = units, stage, progress
        self._counts = np.zeros((len(units), 4), dtype=np.int64)
        self._num_total = sum(unit.num_bytes for unit in units)
        self._source = units[-1].parts[-1].file.label if units else ""

    def report(self, number: int, summary: UnitSummary, source: str) -> None:
        """Take the counts of a unit so far, and tell."""
        self.count(number, summary)
        self._tell(source, self._stage, int(self._counts[:, 3].sum()), self._num_total)

    def assembled(self, num_tokens: int) -> None:
        """Tell how many tokens have been put together."""
        self._tell(self._source, "assemble", num_tokens, int(self._counts[:, 2].sum()))

    def count(self, number: int, summary: UnitSummary) -> None:
        """Take the counts of a unit."""
        read = min(summary.num_read_bytes, self._units[number].num_bytes)
        self._counts[number] = summary.num_documents, summary.num_bytes, summary.num_tokens, read

    def _tell(self, source: str, stage: str, num_done: int, num_total: int) -> None:
        if self._progress is not None:
            documents, num_bytes, tokens, _ = self._counts.sum(axis=0).tolist()
            self._progress(BuildProgress(documents, num_bytes, tokens, source, stage, num_done, num_total))
