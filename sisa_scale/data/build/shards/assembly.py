"""The last stage of a build: the results of the units, in order, become blocks, shards, and the lists beside them.

One pass over the tokens, by one process. Memory: one chunk of a unit, one block a split, for best fit one window.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sisa_scale.data import packing
from sisa_scale.data.build.shards.origins import OriginWriter
from sisa_scale.data.build.shards.statistics import Samples, SplitStatistics
from sisa_scale.data.build.shards.summaries import UnitSummary
from sisa_scale.data.build.unit_work import DOCUMENT, SPLITS, unit_path
from sisa_scale.data.build.units import Unit
from sisa_scale.data.manifest import SplitInfo
from sisa_scale.data.shards import SplitWriter

_CHUNK_TOKENS, _CHUNK_DOCUMENTS = 1 << 22, 1 << 18

Tokens = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, slots=True)
class UnitResult:
    """The results of one unit. first_records: for each part, how many records of its file lie before it."""

    unit: Unit
    key: str
    summary: UnitSummary
    first_records: tuple[int, ...]

    def documents(self, directory: Path) -> Iterator[npt.NDArray[Any]]:
        """Yield its `DOCUMENT` records, some at a time: a unit that is not cut may have any number."""
        with unit_path(directory, self.key, "documents").open("rb") as stream:
            while (rows := np.fromfile(stream, dtype=DOCUMENT, count=_CHUNK_DOCUMENTS)).size:
                yield rows

    def tokens(self, directory: Path, split: str, dtype: str) -> Tokens:
        """Return the tokens of a split: a read-only view of the file."""
        path = unit_path(directory, self.key, f"{split}.tokens")
        return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype=dtype)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Kept documents of one split. rows: `DOCUMENT`, with indexes in their files; sources: the file of each."""

    split: str
    rows: npt.NDArray[Any]
    sources: npt.NDArray[np.uint32]
    tokens: Tokens


def read_chunks(
    results: Sequence[UnitResult], directory: Path, dtype: str, is_duplicate: npt.NDArray[np.bool_] | None
) -> Iterator[Chunk]:
    """Yield what is kept, in order."""
    num_before = 0
    for result in results:
        sources = np.array(result.unit.sources, dtype=np.uint32)
        first_records = np.array(result.first_records, dtype=np.uint64)
        tokens = [result.tokens(directory, split, dtype) for split in SPLITS]
        for rows in result.documents(directory):
            is_kept = np.ones(rows.size, dtype=np.bool_)
            if is_duplicate is not None:
                is_kept = ~is_duplicate[num_before : num_before + rows.size]
            num_before += rows.size
            for number, split in enumerate(SPLITS):
                is_here = rows["split"] == number
                mine, kept = rows[is_here], is_kept[is_here]
                ends = np.cumsum(mine["num_tokens"]).astype(np.int64)
                start = first = 0
                while first < mine.size:
                    last = max(int(np.searchsorted(ends, start + _CHUNK_TOKENS, side="right")), first + 1)
                    chosen, here = mine[first:last].copy(), kept[first:last]
                    stretch = tokens[number][start : ends[last - 1]]
                    if not here.all():
                        stretch = stretch[np.repeat(here, chosen["num_tokens"].astype(np.int64))]
                        chosen = chosen[here]
                    chosen["index"] += first_records[chosen["part"]]
                    if chosen.size:
                        yield Chunk(split, chosen, sources[chosen["part"]], stretch)
                    first, start = last, int(ends[last - 1])
                tokens[number] = tokens[number][start:]


class SplitAssembler:
    """Packs one split, writes its shards and lists, and counts."""

    def __init__(
        self,
        directory: Path,
        split: str,
        *,
        dtype: str,
        block_tokens: int,
        blocks_per_shard: int,
        eos_id: int,
        statistics: SplitStatistics,
        sequence_tokens: int | None,
    ) -> None:
        """sequence_tokens: of best-fit packing; None to put the documents one after the other."""
        self._writer = SplitWriter(directory, split, dtype, block_tokens, blocks_per_shard)
        self._origins = OriginWriter(directory, split, block_tokens * blocks_per_shard)
        self._eos_id, self._sequence_tokens = eos_id, sequence_tokens
        self.statistics = statistics
        self._num_tokens = 0
        self._window: list[tuple[list[Tokens], int, int]] = []  # a document in its pieces, its file, its record
        self._window_tokens = 0

    def add(self, chunk: Chunk) -> None:
        """Append documents."""
        self.statistics.add(chunk.rows, chunk.sources, chunk.tokens)
        ends = np.cumsum(chunk.rows["num_tokens"]).astype(np.int64)
        if self._sequence_tokens is None:
            starts = self._num_tokens + ends - chunk.rows["num_tokens"].astype(np.int64)
            is_first = chunk.rows["is_continued"] == 0
            self._write(chunk.tokens, starts[is_first], chunk.sources[is_first], chunk.rows["index"][is_first])
            return
        pieces = np.split(chunk.tokens, ends[:-1])
        columns = (chunk.rows[name].tolist() for name in ("index", "is_continued"))
        for piece, source, index, is_continued in zip(pieces, chunk.sources.tolist(), *columns, strict=True):
            if is_continued:
                self._window[-1][0].append(piece)
            else:
                if len(self._window) >= packing.WINDOW_DOCUMENTS or self._window_tokens >= packing.WINDOW_TOKENS:
                    self._pack_window(self._sequence_tokens)
                self._window.append(([piece], source, index))
            self._window_tokens += piece.size

    def close(self) -> tuple[SplitInfo, list[Path]]:
        """Write what is left; return the split and the lists of documents beside its shards."""
        if self._sequence_tokens is not None:
            self._pack_window(self._sequence_tokens)
            # The last row needs a token after it.
            self._writer.add(np.array([self._eos_id], dtype=self._writer.dtype))
            self._num_tokens += 1
            self.statistics.num_padding_tokens += 1
        shards = self._writer.close()
        counts = self.statistics
        info = SplitInfo(
            counts.num_documents,
            self._num_tokens,
            counts.num_bytes,
            sum(shard.num_blocks for shard in shards),
            counts.unigram_entropy_nats,
            shards,
        )
        return info, self._origins.close(len(shards))

    def _pack_window(self, sequence_tokens: int) -> None:
        if not self._window:
            return
        pieces, sources, indexes = zip(*self._window, strict=True)
        tokens = [each[0] if len(each) == 1 else np.concatenate(each) for each in pieces]
        packed = packing.pack(tokens, sequence_tokens, self._eos_id)
        order = np.array(packed.documents)
        starts = self._num_tokens + np.array(packed.starts, dtype=np.int64)
        self._write(
            packed.tokens, starts, np.array(sources, dtype=np.uint32)[order], np.array(indexes, dtype=np.uint64)[order]
        )
        self.statistics.num_padding_tokens += packed.num_padding_tokens
        self._window, self._window_tokens = [], 0

    def _write(
        self,
        tokens: Tokens,
        starts: npt.NDArray[np.int64],
        sources: npt.NDArray[np.uint32],
        indexes: npt.NDArray[np.uint64],
    ) -> None:
        self._writer.add(tokens)
        self._origins.add(starts, sources, indexes)
        self._num_tokens += tokens.size


def assemble(
    chunks: Iterator[Chunk],
    assemblers: Mapping[str, SplitAssembler],
    samples: Samples,
    progress: Callable[[], None],
) -> None:
    """Give every chunk to the assembler of its split."""
    for chunk in chunks:
        assemblers[chunk.split].add(chunk)
        if chunk.split == "train":
            samples.add(chunk.rows, chunk.sources, chunk.tokens)
        progress()
