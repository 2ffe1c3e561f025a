"""How work and memory are divided; what is exchanged is tested in tests/multiprocess/test_muon_runs.py."""

from hypothesis import given
from hypothesis import strategies as st

from sisa_scale.config.execution import MATRIX_BUCKET_ELEMENTS
from sisa_scale.training.optimizers.matrix_exchange import assign, buckets


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
