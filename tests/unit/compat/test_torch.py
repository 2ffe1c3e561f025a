import torch
from torch._dynamo import config as dynamo
from torch._inductor import config as inductor
from torch._inductor.lowering import lowerings

from sisa_scale.compat.torch import (
    allow_graphs,
    lower_as_stored_copy,
    make_compiler_deterministic,
    overload,
    storage_key,
)


@torch.library.custom_op("test_compat::same", mutates_args=())
def same(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


def test_an_overload_is_what_torch_ops_has() -> None:
    assert overload(same) is torch.ops.test_compat.same.default


def test_an_operator_gets_a_lowering() -> None:
    assert overload(same) not in lowerings
    lower_as_stored_copy(same)
    assert overload(same) in lowerings


def test_the_limit_of_graphs_only_grows() -> None:
    before = dynamo.recompile_limit
    with dynamo.patch(recompile_limit=before):
        allow_graphs(before + 3)
        assert dynamo.recompile_limit == before + 3
        allow_graphs(1)
        assert dynamo.recompile_limit == before + 3


def test_the_compiler_can_be_made_deterministic() -> None:
    with inductor.patch(deterministic=False):
        make_compiler_deterministic()
        assert inductor.deterministic is True


def test_views_share_a_storage() -> None:
    x = torch.empty(4)
    assert storage_key(x) == storage_key(x[1:]) != storage_key(torch.empty(4))


def test_the_gpu_can_be_kept_busy() -> None:
    assert callable(torch.cuda._sleep)
