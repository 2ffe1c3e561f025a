from hypothesis import given
from hypothesis import strategies as st

from sisa_scale.orchestration.nodes import places

NODES = {"a": {"CPU": 8.0, "GPU": 2.0}, "b": {"CPU": 3.0}, "c": {"CPU": 4.0, "GPU": 4.0}}


def test_a_worker_needs_all_it_asks_for_on_one_node() -> None:
    assert places(NODES, {"CPU": 2}) == 4 + 1 + 2
    assert places(NODES, {"CPU": 2, "GPU": 1}) == 2 + 0 + 2
    assert places(NODES, {"CPU": 2, "GPU": 1}, without=["c"]) == 2
    assert places(NODES, {"CPU": 2, "GPU": 0}) == 7
    assert places({}, {"CPU": 1}) == 0


@given(st.dictionaries(st.sampled_from("abcd"), st.fixed_dictionaries({"CPU": st.integers(0, 9)})), st.integers(1, 4))
def test_nodes_left_out_take_their_places_with_them(nodes: dict[str, dict[str, float]], cpus: int) -> None:
    for node, resources in nodes.items():
        rest = places(nodes, {"CPU": cpus}, without=[node])
        assert rest + places({node: resources}, {"CPU": cpus}) == places(nodes, {"CPU": cpus})
