"""Score fixed-shape batches of items on every rank in lockstep.

Shapes: B batch, L length (`sequence_tokens`).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from sisa_scale.errors import DataError
from sisa_scale.models.head import TokenScores

# Every model here is strictly causal, so what stands right of an item cannot reach it and any valid id will do.
_PADDING_TOKEN = 0
LENGTH_MULTIPLE = 64  # tokens: few shapes of passes, little padding


class Scorer(Protocol):
    """Maps int64 tokens_BL and targets_BL to their scores."""

    def __call__(self, tokens_BL: Tensor, targets_BL: Tensor, document_BL: Tensor | None = None) -> TokenScores:
        """Score every target. document_BL numbers the document of every token, each read as if alone."""
        ...


class Item(NamedTuple):
    """A run of n + 1 tokens: n inputs `tokens[:-1]` and n targets `tokens[1:]`.

    Targets with index >= `score_from` are scored, that is `tokens[score_from + 1 :]`. With `documents`, the number of
    each token's document, every document is read as if alone, and a target in another than its input is not scored.
    is_whole: it is never cut, but scored in a pass of its own length where it is longer than others may be.
    parts: the number of the part that each target belongs to; parts are summed up one by one, too.
    origin: the task, and the line of its file if there is one, for error messages.
    """

    tokens: np.ndarray | list[int]
    score_from: int
    documents: np.ndarray | None = None
    origin: str = ""
    is_whole: bool = False
    parts: np.ndarray | None = None

    @classmethod
    def continuation(cls, context: Sequence[int], target: Sequence[int], origin: str = "") -> "Item":
        """Return the item that scores every token of `target` after a `context` of at least one token."""
        return cls([*context, *target], len(context) - 1, origin=origin)


class ItemResult(NamedTuple):
    """Sums over the scored targets of one item: count, nats, and how many were the argmax.

    parts: count and nats of each part of an item that has parts.
    """

    num_tokens: int
    log_probability: float
    num_greedy: int
    parts: tuple[tuple[int, float], ...] = ()

    @property
    def is_exact(self) -> bool:
        """Every scored target was the argmax."""
        return self.num_greedy == self.num_tokens


Advance = Callable[[int], None]
Gather = Callable[[list[ItemResult]], list[list[ItemResult]]]
"""Returns what every rank passed, in rank order, on every rank (`torch.distributed.all_gather_object`)."""


def score_items(
    items: Sequence[Item],
    scorer: Scorer,
    *,
    sequence_tokens: int,
    batch_size: int,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    gather: Gather | None = None,
    by_length: bool = False,
    advance: Advance = lambda num_items: None,
) -> list[ItemResult]:
    """Return the result of every item, in order, on every rank.

    Every forward pass has the shape (batch_size, sequence_tokens), padded on the right, which suits compiled code; with
    by_length the longest items come first, and a pass is as long as its own need, rounded up to LENGTH_MULTIPLE. An
    item longer than `sequence_tokens` keeps its last tokens, unless `is_whole`: those have passes of items of their
    length, as many as make no more tokens than another pass has, at least one.

    Pass b belongs to rank b % world_size, and every rank makes the same number of passes (the last may be empty ones),
    because a model whose parameters are partitioned can only be run by all ranks together. advance: told of items as
    they are done. Raises DataError for an item that has nothing to score or whose scored part does not fit.
    """
    if world_size > 1 and gather is None:
        raise ValueError("world_size > 1 needs a gather function")
    fitted = [_fit(index, item, sequence_tokens) for index, item in enumerate(items)]
    passes = list(_passes(fitted, sequence_tokens, batch_size, by_length=by_length))
    num_rounds = -(-len(passes) // world_size)
    mine: list[ItemResult] = []
    for number in range(rank, num_rounds * world_size, world_size):
        nothing = _Pass([], (batch_size, _length_of([], sequence_tokens) if by_length else sequence_tokens))
        indices, shape = passes[number] if number < len(passes) else nothing
        mine += _score_batch([fitted[index] for index in indices], scorer, shape, device)
        advance(len(indices))
    return _in_order([mine] if gather is None else gather(mine), passes)


class _Pass(NamedTuple):
    """The items of a forward pass, and its shape (rows, tokens)."""

    indices: list[int]
    shape: tuple[int, int]


def _passes(items: Sequence[Item], sequence_tokens: int, batch_size: int, *, by_length: bool) -> Iterator[_Pass]:
    """Yield the passes over all items, each item in one; they do not depend on who makes them."""
    lengths = [len(item.tokens) - 1 for item in items]
    usual = [index for index, length in enumerate(lengths) if length <= sequence_tokens]
    if by_length:
        usual.sort(key=lambda index: -lengths[index])
    for start in range(0, len(usual), batch_size):
        indices = usual[start : start + batch_size]
        length = _length_of([lengths[index] for index in indices], sequence_tokens) if by_length else sequence_tokens
        yield _Pass(indices, (batch_size, length))
    longer = sorted((i for i, length in enumerate(lengths) if length > sequence_tokens), key=lambda i: -lengths[i])
    for length, group in groupby(longer, key=lambda index: lengths[index]):
        indices, rows = list(group), max(1, batch_size * sequence_tokens // length)
        for start in range(0, len(indices), rows):
            yield _Pass(indices[start : start + rows], (rows, length))


def _length_of(lengths: Sequence[int], sequence_tokens: int) -> int:
    longest = max(lengths, default=1)
    return min(longest + -longest % LENGTH_MULTIPLE, sequence_tokens)


def _fit(index: int, item: Item, sequence_tokens: int) -> Item:
    """Cut an item to its last `sequence_tokens` inputs, unless it is to be scored as a whole."""
    num_targets, where = len(item.tokens) - 1, item.origin or f"evaluation item {index}"
    if not 0 <= item.score_from < num_targets:
        raise DataError.at(
            where,
            found=f"score_from {item.score_from} for {num_targets} targets",
            allowed="at least one target is scored, and the first token is never a target",
            remedy="Give the item a context of one token or more and a non-empty continuation.",
        )
    num_dropped = 0 if item.is_whole else max(0, num_targets - sequence_tokens)
    if num_dropped > item.score_from:
        raise DataError.at(
            where,
            found=f"{num_targets - item.score_from} tokens to score",
            allowed=f"the scored part fits in sequence_tokens = {sequence_tokens}",
            remedy="Evaluate with a longer sequence or split the item.",
        )
    documents = None if item.documents is None else item.documents[num_dropped:]
    tokens, score_from = item.tokens[num_dropped:], item.score_from - num_dropped
    parts = None if item.parts is None else item.parts[num_dropped:]
    return item._replace(tokens=tokens, score_from=score_from, documents=documents, parts=parts)


@torch.no_grad()
def _score_batch(
    batch: Sequence[Item], scorer: Scorer, shape: tuple[int, int], device: torch.device | str
) -> list[ItemResult]:
    tokens_BL = torch.full(shape, _PADDING_TOKEN, dtype=torch.int64)
    targets_BL = torch.full(shape, _PADDING_TOKEN, dtype=torch.int64)
    document_BL = torch.zeros(shape, dtype=torch.int32)
    is_scored_BL = torch.zeros(shape, dtype=torch.bool)
    for row, item in enumerate(batch):
        tokens = torch.from_numpy(np.asarray(item.tokens, dtype=np.int64))
        num_targets = len(tokens) - 1
        tokens_BL[row, :num_targets] = tokens[:-1]
        targets_BL[row, :num_targets] = tokens[1:]
        is_scored_BL[row, item.score_from : num_targets] = True
        if item.documents is not None:
            documents = torch.from_numpy(item.documents)
            document_BL[row, :num_targets] = documents[:-1]
            is_scored_BL[row, :num_targets] &= documents[:-1] == documents[1:]
    if any(item.documents is not None for item in batch):
        scores = scorer(tokens_BL.to(device), targets_BL.to(device), document_BL.to(device))
    else:
        scores = scorer(tokens_BL.to(device), targets_BL.to(device))
    # torch.where rather than a product: an infinite score of the padding must not become NaN here.
    log_probability_BL = scores.log_probability_BL.cpu().double()
    sums = torch.where(is_scored_BL, log_probability_BL, 0.0).sum(dim=1).tolist()
    greedy = (scores.is_greedy_BL.cpu() & is_scored_BL).sum(dim=1).tolist()
    counts = is_scored_BL.sum(dim=1).tolist()
    parts = [_sums_of_parts(item, log_probability_BL[row], is_scored_BL[row]) for row, item in enumerate(batch)]
    return [ItemResult(*result) for result in zip(counts, sums, greedy, parts, strict=False)]


def _sums_of_parts(item: Item, log_probability_L: Tensor, is_scored_L: Tensor) -> tuple[tuple[int, float], ...]:
    if item.parts is None:
        return ()
    is_scored = is_scored_L.numpy()[: len(item.parts)]
    part, nats = item.parts[is_scored], log_probability_L.numpy()[: len(item.parts)][is_scored]
    return tuple(zip(np.bincount(part).tolist(), np.bincount(part, weights=nats).tolist(), strict=True))


def _in_order(per_rank: Sequence[Sequence[ItemResult]], passes: Sequence[_Pass]) -> list[ItemResult]:
    """Return results by item; pass b is the (b // world_size)-th of rank b % world_size."""
    left = [iter(results) for results in per_rank]
    found: dict[int, ItemResult] = {}
    for number, one in enumerate(passes):
        found.update(zip(one.indices, left[number % len(left)], strict=False))  # indices first: they end a pass
    return [found[index] for index in sorted(found)]
