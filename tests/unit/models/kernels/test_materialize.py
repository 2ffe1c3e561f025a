"""Results that are stored: the same numbers, the same gradients, and a graph that cannot look into them."""

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.utils import fresh_inductor_cache, run_and_get_code
from torch.fx import GraphModule

from sisa_scale.models.kernels.materialize import materialize, materialize_cos_sin, store_in_kernels


def test_gradients_are_those_of_the_plain_functions() -> None:
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(materialize, x)
    assert torch.autograd.gradcheck(materialize_cos_sin, x)
    torch.testing.assert_close(materialize_cos_sin(x), (x.cos(), x.sin()), rtol=0, atol=0)


def test_strides_are_kept() -> None:
    for x in (torch.randn(4, 3, 2).transpose(0, 1), torch.randn(4, 6)[:, ::2], torch.randn(4, 1).expand(4, 3)):
        torch.library.opcheck(torch.ops.sisa_scale_models_kernels_materialize.materialize.default, (x,))
        torch.library.opcheck(torch.ops.sisa_scale_models_kernels_materialize.materialize_cos_sin.default, (x,))


def test_without_a_backward_pass_nothing_is_copied() -> None:
    x = torch.randn(3)
    with torch.no_grad():
        assert materialize(x) is x
    assert materialize(x) is not x


def test_a_compiler_sees_an_operation_for_each() -> None:
    graphs: list[GraphModule] = []

    def keep(graph: GraphModule, _inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            cos, sin = materialize_cos_sin(materialize(x))
            return cos * sin

    torch.compiler.reset()
    torch.compile(Twice(), backend=keep, fullgraph=True)(torch.randn(3, requires_grad=True))
    (graph,) = graphs
    names = [str(node.target) for node in graph.graph.nodes if "models_kernels_materialize" in str(node.target)]
    assert len(names) == 2


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
def test_kernels_store_without_a_copy() -> None:
    def square_of_cosine(x: Tensor) -> Tensor:
        return materialize(x.cos()).square()

    x = torch.randn(64, 3, requires_grad=True)
    (expected,) = torch.autograd.grad(square_of_cosine(x).sum(), x)
    store_in_kernels()
    torch.compiler.reset()
    with fresh_inductor_cache():
        result, code = run_and_get_code(torch.compile(square_of_cosine), x)
        assert "models_kernels_materialize" not in code[0]
        assert result.grad_fn is not None
        assert any(torch.allclose(kept, x.cos()) for kept in result.grad_fn.saved_tensors)  # type: ignore[attr-defined]
        (gradient,) = torch.autograd.grad(result.sum(), x)
    torch.testing.assert_close(gradient, expected)
