"""Packing documents into sequences so that none shorter than a sequence is cut: best fit decreasing.

A split packed like this is a stream of rows of `sequence_tokens` tokens each and one end-of-document token after the
last row. A document longer than a row begins a row and runs on through the next ones, so that every target is the true
next token; the rest of its last row, like that of any row, is given to the documents that fill it best. What then stays
empty is filled with end-of-document tokens. No document is empty, so a row holds two such tokens in a row (its first
token, which may end a document of the row before, aside) only where the second is padding.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PACKINGS = ("concat", "best_fit")
# How much is packed at a time. More changes the share of padding hardly at all.
WINDOW_DOCUMENTS, WINDOW_TOKENS = 1 << 15, 1 << 24


def best_fit(lengths: Sequence[int], sequence_tokens: int) -> list[list[int]]:
    """Return groups of document numbers; each group fills whole rows up to its padding.

    lengths: of the documents in tokens, their ends included. Only the first document of a group may be longer than a
    row. Groups are ordered by their earliest document. The same lengths give the same groups.
    """
    groups: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (free tokens, group), sorted
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        length = lengths[number]
        place = bisect_left(rooms, (length, -1)) if length <= sequence_tokens else len(rooms)
        if place < len(rooms):
            room, group = rooms.pop(place)
            groups[group].append(number)
        else:
            room, group = -(-length // sequence_tokens) * sequence_tokens, len(groups)
            groups.append([number])
        if room > length:
            insort(rooms, (room - length, group))
    return sorted(groups, key=min)


def is_padding(tokens_BM: npt.NDArray[np.integer], eos_id: int) -> npt.NDArray[np.bool_]:
    """Return which tokens of rows, each with the token after it, are padding: bool, as `tokens_BM`."""
    is_end_BM = tokens_BM == eos_id
    padding_BM = np.zeros(tokens_BM.shape, dtype=np.bool_)
    padding_BM[..., 1:] = is_end_BM[..., 1:] & is_end_BM[..., :-1]
    return padding_BM


def is_ignored(tokens_BM: npt.NDArray[np.integer], eos_id: int) -> npt.NDArray[np.bool_]:
    """Return which targets must not be trained on, because they or their tokens are padding: bool, (..., M - 1)."""
    padding_BM = is_padding(tokens_BM, eos_id)
    return padding_BM[..., 1:] | padding_BM[..., :-1]


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows that are ready. tokens: 1-D; documents, starts: which begin in them, in order, and where."""

    tokens: npt.NDArray[np.unsignedinteger]
    documents: list[int]
    starts: list[int]
    num_padding_tokens: int


def pack(documents: Sequence[npt.NDArray[np.unsignedinteger]], sequence_tokens: int, eos_id: int) -> PackedRows:
    """Pack documents, each 1-D with its end, into whole rows."""
    pieces: list[npt.NDArray[np.unsignedinteger]] = []
    numbers: list[int] = []
    starts: list[int] = []
    position = num_padding = 0
    for group in best_fit([document.size for document in documents], sequence_tokens):
        for number in group:
            pieces.append(documents[number])
            numbers.append(number)
            starts.append(position)
            position += documents[number].size
        missing = -position % sequence_tokens
        pieces.append(np.full(missing, eos_id, dtype=documents[0].dtype))
        position += missing
        num_padding += missing
    return PackedRows(np.concatenate(pieces), numbers, starts, num_padding)
