import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sisa_scale.errors import DataError
from sisa_scale.evaluation.scoring import Item, ItemResult, TokenScores, score_items

Scorer = Callable[..., TokenScores]


def by_value(tokens_BL: Tensor, targets_BL: Tensor) -> TokenScores:
    """Log-probability -(100 token + target): the sum tells exactly which pairs were scored."""
    return TokenScores(-(100.0 * tokens_BL + targets_BL), targets_BL % 2 == 0)


def test_only_the_targets_from_score_from_on_are_scored() -> None:
    [result] = score_items([Item([5, 1, 2, 3, 4], 2)], by_value, sequence_tokens=8, batch_size=2)
    assert result == ItemResult(2, -(203.0 + 304.0), 1)
    assert not result.is_exact


def test_continuation_scores_every_target_token() -> None:
    [result] = score_items([Item.continuation([9, 8], [2, 4])], by_value, sequence_tokens=8, batch_size=1)
    assert result == ItemResult(2, -(802.0 + 204.0), 2)
    assert result.is_exact


def test_a_long_item_keeps_its_last_tokens() -> None:
    tokens = list(range(20))
    [cut] = score_items([Item(tokens, 17)], by_value, sequence_tokens=4, batch_size=1)
    [whole] = score_items([Item(tokens, 17)], by_value, sequence_tokens=19, batch_size=1)
    assert cut == whole


@pytest.mark.parametrize("item", [Item([1, 2, 3, 4, 5, 6], 0), Item([1], 0), Item([1, 2], 1), Item([1, 2], -1)])
def test_what_cannot_be_scored_is_refused(item: Item) -> None:
    with pytest.raises(DataError, match="evaluation item 1"):
        score_items([Item([1, 2], 0), item], by_value, sequence_tokens=4, batch_size=1)


def test_infinite_padding_does_not_spoil_a_sum() -> None:
    def diverged(tokens_BL: Tensor, targets_BL: Tensor) -> TokenScores:
        log_probability_BL = torch.where(targets_BL == 7, -1.0, -math.inf)
        return TokenScores(log_probability_BL, targets_BL == 7)

    [result] = score_items([Item([1, 7], 0)], diverged, sequence_tokens=4, batch_size=1)
    assert result.log_probability == -1.0


@given(
    lengths=st.lists(st.integers(2, 9), max_size=12),
    batch_size=st.integers(1, 4),
    world_size=st.integers(1, 4),
)
def test_any_world_gives_the_same_results_in_lockstep(lengths: list[int], batch_size: int, world_size: int) -> None:
    items = [Item(np.arange(index, index + length), length // 2 - 1) for index, length in enumerate(lengths)]
    expected = [score_items([item], by_value, sequence_tokens=8, batch_size=1)[0] for item in items]
    shapes: list[list[torch.Size]] = [[] for _ in range(world_size)]
    parts: list[list[ItemResult]] = []

    def collect(part: list[ItemResult]) -> list[list[ItemResult]]:
        parts.append(part)
        return [[] for _ in range(world_size)]

    def run(rank: int, gather: Callable[..., list[list[ItemResult]]]) -> list[ItemResult]:
        def counting(tokens_BL: Tensor, targets_BL: Tensor) -> TokenScores:
            shapes[rank].append(tokens_BL.shape)
            return by_value(tokens_BL, targets_BL)

        return score_items(
            items, counting, sequence_tokens=8, batch_size=batch_size, rank=rank, world_size=world_size, gather=gather
        )

    # First pass: learn what each rank contributes. Second pass: every rank receives all contributions.
    for rank in range(world_size):
        run(rank, collect)
    num_rounds = math.ceil(len(items) / batch_size / world_size)
    assert shapes == [[torch.Size([batch_size, 8])] * num_rounds] * world_size
    assert [run(rank, lambda part: parts) for rank in range(world_size)] == [expected] * world_size


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(2, 300), min_size=1, max_size=9),
    batch_size=st.integers(1, 3),
    world_size=st.integers(1, 3),
)
def test_by_length_results_are_the_same_and_passes_are_no_longer_than_they_need(
    lengths: list[int], batch_size: int, world_size: int
) -> None:
    items = [Item(np.arange(index, index + length), length // 2 - 1) for index, length in enumerate(lengths)]
    expected = [score_items([item], by_value, sequence_tokens=256, batch_size=1)[0] for item in items]
    parts: list[list[ItemResult]] = []
    columns: list[int] = []
    told: list[int] = []

    def counting(tokens_BL: Tensor, targets_BL: Tensor) -> TokenScores:
        columns.append(tokens_BL.shape[1])
        return by_value(tokens_BL, targets_BL)

    def run(rank: int, gather: Callable[..., list[list[ItemResult]]], scorer: Scorer) -> list[ItemResult]:
        return score_items(
            items, scorer, sequence_tokens=256, batch_size=batch_size, rank=rank, world_size=world_size, gather=gather,
            by_length=True, advance=told.append,
        )  # fmt: skip

    def contribution(part: list[ItemResult]) -> list[list[ItemResult]]:
        parts.append(part)
        raise StopIteration

    for rank in range(world_size):
        with pytest.raises(StopIteration):
            run(rank, contribution, counting)
    assert sum(told) == len(items)
    assert max(columns) <= min(256, max(lengths) - 1 + 63)
    assert [run(rank, lambda part: parts, by_value) for rank in range(world_size)] == [expected] * world_size


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(2, 70), max_size=9),
    batch_size=st.integers(1, 3),
    world_size=st.integers(1, 3),
    by_length=st.booleans(),
)
def test_whole_items_are_never_cut_and_no_pass_is_larger_than_it_must_be(
    lengths: list[int], batch_size: int, world_size: int, by_length: bool
) -> None:
    items = [Item(np.arange(index, index + length), 0, is_whole=True) for index, length in enumerate(lengths)]
    expected = [score_items([item], by_value, sequence_tokens=80, batch_size=1)[0] for item in items]
    parts: list[list[ItemResult]] = []
    passes: list[list[torch.Size]] = [[] for _ in range(world_size)]

    def run(rank: int, gather: Callable[..., list[list[ItemResult]]]) -> list[ItemResult]:
        def counting(tokens_BL: Tensor, targets_BL: Tensor) -> TokenScores:
            passes[rank].append(tokens_BL.shape)
            return by_value(tokens_BL, targets_BL)

        return score_items(
            items, counting, sequence_tokens=16, batch_size=batch_size, rank=rank, world_size=world_size,
            gather=gather, by_length=by_length,
        )  # fmt: skip

    def collect(part: list[ItemResult]) -> list[list[ItemResult]]:
        parts.append(part)
        return [[] for _ in range(world_size)]

    for rank in range(world_size):
        run(rank, collect)
    assert all(rows == 1 or rows * length <= 16 * batch_size for shapes in passes for rows, length in shapes)
    assert [run(rank, lambda part: parts) for rank in range(world_size)] == [expected] * world_size
    assert len({len(shapes) for shapes in passes}) == 1


def test_an_item_that_does_not_fit_is_named_by_its_task_and_line() -> None:
    item = Item.continuation([1], list(range(9)), "lambada, test.jsonl:7")
    with pytest.raises(DataError, match=r"lambada, test\.jsonl:7"):
        score_items([item], by_value, sequence_tokens=4, batch_size=1)


def test_several_ranks_need_a_gather(oracle: Scorer) -> None:
    with pytest.raises(ValueError, match="gather"):
        score_items([], oracle, sequence_tokens=8, batch_size=1, world_size=2)


def test_no_items_no_passes() -> None:
    def never(tokens_BL: Tensor, targets_BL: Tensor) -> TokenScores:
        raise AssertionError

    assert score_items([], never, sequence_tokens=8, batch_size=1) == []
