from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sisa_scale.data.order.permutation import SequenceOrder, permute, rank_positions
from sisa_scale.errors import ConfigError

SEEDS = st.integers(0, 2**64 - 1)


@st.composite
def orders(draw: st.DrawFn) -> SequenceOrder:
    sequences_per_block = draw(st.integers(1, 40))
    num_full_blocks = draw(st.integers(0, 60))
    tail_sequences = draw(st.integers(0 if num_full_blocks else 1, max(1, sequences_per_block - 1)))
    return SequenceOrder(num_full_blocks, tail_sequences, sequences_per_block, draw(SEEDS), draw(st.integers(1, 70)))


def places(order: SequenceOrder, positions: np.ndarray) -> list[tuple[int, ...]]:
    return list(zip(*(part.tolist() for part in order.locate(positions)), strict=True))


def epoch_places(order: SequenceOrder, epoch: int) -> list[tuple[int, ...]]:
    return places(order, np.arange(order.sequences_per_epoch) + epoch * order.sequences_per_epoch)


@given(st.integers(1, 3000), SEEDS)
@settings(deadline=None)
def test_permutation_is_a_bijection(size: int, seed: int) -> None:
    keys = np.full(size, seed, dtype=np.uint64)
    assert sorted(permute(np.arange(size), size, keys)) == list(range(size))


def test_permutation_is_even() -> None:
    keys = np.arange(10_000, dtype=np.uint64)
    for value in range(10):
        counts = np.bincount(permute(np.full(10_000, value), 10, keys), minlength=10)
        assert abs(counts - 1000).max() < 150


@given(orders(), st.integers(0, 1000))
@settings(deadline=None)
def test_every_sequence_exactly_once_an_epoch(order: SequenceOrder, epoch: int) -> None:
    found = epoch_places(order, epoch)
    rows = [(block, row) for block in range(order.num_full_blocks) for row in range(order.sequences_per_block)]
    rows += [(order.num_full_blocks, row) for row in range(order.tail_sequences)]
    assert sorted(found) == [(epoch, *row) for row in rows]


@given(orders(), st.lists(st.integers(0, 10**6), max_size=20))
@settings(deadline=None)
def test_a_position_does_not_depend_on_its_neighbours(order: SequenceOrder, positions: list[int]) -> None:
    together = places(order, np.array(positions, dtype=np.int64))
    assert together == [places(order, np.array([position]))[0] for position in positions]


@given(st.integers(0, 10**9), st.integers(1, 300), st.integers(1, 100))
def test_ranks_divide_the_batch(step: int, global_batch_sequences: int, world_size: int) -> None:
    batch = range(step * global_batch_sequences, (step + 1) * global_batch_sequences)
    parts = [rank_positions(batch, rank, world_size) for rank in range(world_size)]
    sizes = {part.size for part in parts}
    assert max(sizes) - min(sizes) <= 1
    assert np.concatenate(parts).tolist() == list(batch)


def test_epochs_and_seeds_differ() -> None:
    order = SequenceOrder(20, 3, 8, seed=1)
    first, second = ([place[1:] for place in epoch_places(order, epoch)] for epoch in (0, 1))
    other = [place[1:] for place in epoch_places(SequenceOrder(20, 3, 8, seed=2), 0)]
    assert first != second != other != first


def test_a_batch_draws_from_many_blocks() -> None:
    order = SequenceOrder(1000, 0, 256, seed=0, lanes=64)
    for step in (0, 5, 100, order.sequences_per_epoch // 64 - 1):
        _, blocks, _ = order.locate(np.arange(step * 64, (step + 1) * 64))
        assert len(set(blocks.tolist())) == 64


def test_tail_is_spread_over_the_epoch() -> None:
    order = SequenceOrder(16, 10, 64, seed=0)
    where = [place for place, (_, block, _) in enumerate(epoch_places(order, 0)) if block == 16]
    assert {after - before for before, after in pairwise(where)} <= {103, 104}


def test_golden_positions() -> None:
    # These numbers may never change: runs in progress and published results depend on them.
    order = SequenceOrder(num_full_blocks=1000, tail_sequences=77, sequences_per_block=256, seed=42)
    assert places(order, np.array([0, 1, 2, 511, 512, 131_072, 255_999, 256_076, 256_077, 10**12])) == GOLDEN


GOLDEN = [
    (0, 91, 69),
    (0, 533, 232),
    (0, 689, 45),
    (0, 409, 68),
    (0, 195, 54),
    (0, 464, 94),
    (0, 509, 61),
    (0, 1000, 69),
    (1, 771, 253),
    (3905075, 818, 71),
]


def test_huge_splits_cost_nothing() -> None:
    order = SequenceOrder(2**31, 255, 256, seed=7)
    found = Counter(places(order, np.arange(1000) + order.sequences_per_epoch * 3 - 500))
    assert len(found) == 1000


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="seed"):
        SequenceOrder(1, 0, 1, seed=-1)
    with pytest.raises(ValueError, match="at least one sequence"):
        SequenceOrder(0, 0, 8, seed=0)
    with pytest.raises(ValueError, match="not negative"):
        SequenceOrder(1, 0, 8, seed=0).locate(np.array([-1]))
    with pytest.raises(ValueError, match="rank 2 of 2"):
        rank_positions(range(8), rank=2, world_size=2)
