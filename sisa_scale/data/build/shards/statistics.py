"""What a data set holds, in numbers: `statistics.json` beside the manifest, from which its card is drawn."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sisa_scale.data.build.texts.cleaning import REASONS
from sisa_scale.data.tokenizer import Tokenizer
from sisa_scale.files import write_json

STATISTICS_NAME = "statistics.json"

# Tokens of a document: two bins an octave.
LENGTH_EDGES = np.unique(np.ceil(2 ** (np.arange(97) / 2) - 1e-9).astype(np.int64))

_NUM_TOP, _NUM_RANKS, _NUM_SAMPLES, _SAMPLE_TOKENS = 40, 200, 5, 120


class SplitStatistics:
    """Counts of one split while it is written."""

    def __init__(self, vocab_size: int, num_sources: int) -> None:
        self.num_documents = self.num_bytes = self.num_tokens = self.num_padding_tokens = 0
        self.token_counts = np.zeros(vocab_size, dtype=np.int64)
        self._lengths = np.zeros(LENGTH_EDGES.size, dtype=np.int64)
        self._last_length = 0
        self.sources = np.zeros((3, num_sources), dtype=np.int64)

    def add(self, rows: npt.NDArray[Any], sources: npt.NDArray[np.uint32], tokens: npt.NDArray[Any]) -> None:
        """Count documents (`DOCUMENT` records), the file of each, and their tokens."""
        lengths, sizes = rows["num_tokens"].astype(np.int64), rows["num_bytes"].astype(np.int64)
        is_first = rows["is_continued"] == 0
        self.num_documents += int(is_first.sum())
        self.num_bytes += int(sizes.sum())
        self.num_tokens += tokens.size
        self.token_counts += np.bincount(tokens, minlength=self.token_counts.size)
        self._count_lengths(lengths, is_first)
        for totals, values in zip(self.sources, (is_first.astype(np.int64), sizes, lengths), strict=True):
            np.add.at(totals, sources, values)

    def _count_lengths(self, lengths: npt.NDArray[np.int64], is_first: npt.NDArray[np.bool_]) -> None:
        """Count documents by length; one that goes on with the last of the rows before is counted anew."""
        starts = np.flatnonzero(is_first)
        if not is_first[0]:
            self._lengths[_bin(self._last_length)] -= 1
            starts = np.concatenate(([0], starts))
        whole = np.add.reduceat(lengths, starts)
        whole[0] += 0 if is_first[0] else self._last_length
        self._lengths += np.bincount(_bin(whole), minlength=LENGTH_EDGES.size)
        self._last_length = int(whole[-1])

    @property
    def unigram_entropy_nats(self) -> float:
        """Of the frequencies of the tokens."""
        shares = self.token_counts[self.token_counts > 0] / self.num_tokens
        # Rounded, so that the last bit of a logarithm cannot change the fingerprint from machine to machine.
        return round(math.fsum(-share * math.log(share) for share in shares.tolist()), 6)

    def summary(self) -> dict[str, Any]:
        """Return the counts as JSON."""
        used = int(self._lengths.nonzero()[0].max(initial=-1)) + 1
        return {
            "num_documents": self.num_documents,
            "num_bytes": self.num_bytes,
            "num_tokens": self.num_tokens,
            "num_padding_tokens": self.num_padding_tokens,
            "unigram_entropy_nats": self.unigram_entropy_nats,
            "documents_by_length": self._lengths[:used].tolist(),
        }


def _bin(lengths: npt.NDArray[np.int64] | int) -> npt.NDArray[np.int64]:
    return np.asarray(np.searchsorted(LENGTH_EDGES, lengths, side="right") - 1)


class Samples:
    """The beginnings of a few documents spread evenly over a split."""

    def __init__(self, tokenizer: Tokenizer, num_documents: int, names: Sequence[str]) -> None:
        self._tokenizer, self._names = tokenizer, names
        num_samples = min(_NUM_SAMPLES, num_documents)
        self._wanted = [(2 * k + 1) * num_documents // (2 * num_samples) for k in range(num_samples)]
        self._num_seen = 0
        self.samples: list[dict[str, Any]] = []

    def add(self, rows: npt.NDArray[Any], sources: npt.NDArray[np.uint32], tokens: npt.NDArray[Any]) -> None:
        """Take what is wanted of documents (`DOCUMENT` records, their indexes those in the file) and their tokens."""
        firsts = np.flatnonzero(rows["is_continued"] == 0)
        while self._wanted and self._wanted[0] < self._num_seen + firsts.size:
            number = int(firsts[self._wanted.pop(0) - self._num_seen])
            start = int(rows["num_tokens"][:number].sum())
            length = int(rows["num_tokens"][number]) - 1
            ids = tokens[start : start + min(length, _SAMPLE_TOKENS)].tolist()
            self.samples.append(
                {
                    "source": self._names[int(sources[number])],
                    "index": int(rows["index"][number]),
                    "num_tokens": length,
                    "text": self._tokenizer.decode(ids),
                }
            )
        self._num_seen += firsts.size


def write_statistics(
    directory: Path,
    *,
    splits: Mapping[str, SplitStatistics],
    names: Sequence[str],
    removed: npt.NDArray[np.int64],
    tokenizer: Tokenizer,
    samples: Sequence[dict[str, Any]],
) -> Path:
    """Write `statistics.json` and return its path. removed: documents by reason and source."""
    documents, num_bytes, num_tokens = np.sum([split.sources for split in splits.values()], axis=0)
    sources = [
        {
            "name": name,
            "num_documents": int(documents[number]),
            "num_bytes": int(num_bytes[number]),
            "num_tokens": int(num_tokens[number]),
            "removed": {reason: int(count) for reason, count in zip(REASONS, removed[:, number], strict=True)},
        }
        for number, name in enumerate(names)
    ]
    counts = np.sum([split.token_counts for split in splits.values()], axis=0)
    order = np.argsort(-counts, kind="stable")
    num_used = int((counts > 0).sum())
    ranks = np.unique(np.geomspace(1, max(1, num_used), _NUM_RANKS).astype(np.int64))
    top = [int(token) for token in order[: min(_NUM_TOP, num_used)]]
    path = directory / STATISTICS_NAME
    write_json(
        path,
        {
            "length_edges": LENGTH_EDGES.tolist(),
            "splits": {name: split.summary() for name, split in splits.items()},
            "sources": sources,
            "vocabulary": {
                "num_ids": int(counts.size),
                "num_used_ids": num_used,
                "top": [{"id": token, "text": tokenizer.decode([token]), "count": int(counts[token])} for token in top],
                "counts_by_rank": [[int(rank), int(counts[order[rank - 1]])] for rank in ranks if num_used],
            },
            "samples": list(samples),
        },
    )
    return path
