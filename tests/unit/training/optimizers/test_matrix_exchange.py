"""How work and memory are divided; what is exchanged is tested in tests/multiprocess/test_muon_runs.py."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sisa_scale.config.execution import MATRIX_BUCKET_ELEMENTS
from sisa_scale.models.row_parts import RowPart
from sisa_scale.training.optimizers.matrix_exchange import Matrix, MatrixExchange, Piece, assign, buckets


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=60), st.integers(1, 9))
def test_work_is_divided(costs: list[int], workers: int) -> None:
    owner = assign(dict(enumerate(costs)), workers)
    loads = [sum(cost for number, cost in enumerate(costs) if owner[number] == worker) for worker in range(workers)]
    assert sum(loads) == sum(costs)
    assert max(loads) <= 4 / 3 * max(*costs, sum(costs) / workers) + max(costs) / 3
    if len(costs) >= workers:
        assert min(loads) > 0


def test_matrices_alike_are_dealt_out_evenly() -> None:
    owner = assign(dict.fromkeys(range(13), 5), 4)
    assert sorted(list(owner.values()).count(worker) for worker in range(4)) == [3, 3, 3, 4]


def test_buckets_keep_the_order_and_the_limit() -> None:
    limit = MATRIX_BUCKET_ELEMENTS
    sizes = dict(enumerate([limit // 2, limit // 2, 1, 2 * limit, limit, 3]))
    assert buckets(sizes) == [[0, 1], [2], [3], [4], [5]]


def test_a_worker_may_have_nothing_and_get_nothing() -> None:
    matrix = Matrix("w", 2, 3, (RowPart(0, 2),))
    exchange = MatrixExchange({5: matrix}, [[]], rank=0)
    assert exchange.own == [5]
    idle = MatrixExchange({}, [[]], rank=0)
    assert idle.exchange([], lambda _, flat: flat, torch.device("cpu")) == []


@pytest.mark.parametrize("cut", [1, 4, 5])
def test_pieces_come_back_changed_where_they_were(cut: int) -> None:
    matrices = {2: Matrix("a", 2, 3, (RowPart(0, 2),)), 7: Matrix("b", 4, 1, (RowPart(0, 4),))}
    pieces = [Piece(7, 0, 4), Piece(2, cut, 6 - cut), Piece(2, 0, cut)]
    values = [torch.arange(4.0), torch.arange(float(cut), 6.0), torch.arange(float(cut))]
    exchange = MatrixExchange(matrices, [pieces], rank=0)
    found = exchange.exchange(iter(values), lambda number, flat: 10 * flat + number, torch.device("cpu"))
    expected = [10 * torch.arange(4.0) + 7, 10 * values[1] + 2, 10 * values[2] + 2]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
