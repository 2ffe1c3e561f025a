"""What lies around the kernel of flash-attn-4; the kernel itself is tested on a GPU (tests/gpu)."""

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sisa_scale.models import flash4
from sisa_scale.models.sdpa import attend

SCALE = 0.3


def mathematics(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    logits_BHLM = SCALE * torch.einsum("blhk,bmhk->bhlm", q, k)
    length = q.shape[1]
    logits_BHLM = logits_BHLM.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -torch.inf)
    return torch.einsum("bhlm,bmhj->blhj", logits_BHLM.softmax(-1), v), logits_BHLM.logsumexp(-1)


def by_torch(function: str, *inputs: Any, **settings: Any) -> Any:
    """The package's two functions, from their definition."""
    *tensors, scale = inputs
    assert scale == SCALE
    assert all(x.shape[-1] % flash4.WIDTH_MULTIPLE == 0 for x in tensors[:3])
    if function == "_flash_attn_fwd":
        assert settings["return_lse"]
        return (*mathematics(*tensors), None, None, None)
    q, k, v, out, gradient, logsumexp = tensors
    weights_BHLM = (SCALE * torch.einsum("blhk,bmhk->bhlm", q, k) - logsumexp[..., None]).exp().tril()
    of_weights_BHLM = torch.einsum("blhj,bmhj->bhlm", gradient, v)
    of_logits_BHLM = weights_BHLM * (of_weights_BHLM - torch.einsum("blhj,blhj->bhl", gradient, out)[..., None])
    settings["dq"].copy_(SCALE * torch.einsum("bhlm,bmhk->blhk", of_logits_BHLM, k))
    settings["dk"].copy_(SCALE * torch.einsum("bhlm,blhk->bmhk", of_logits_BHLM, q))
    settings["dv"].copy_(torch.einsum("bhlm,blhj->bmhj", weights_BHLM, gradient))
    return None


def heads(*widths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 12, 3, width, generator=generator).requires_grad_() for width in widths]


@pytest.mark.parametrize("widths", [(80, 80, 64), (96, 96, 64), (64, 64, 64), (20, 20, 12)])
@pytest.mark.parametrize("is_compiled", [False, True])
def test_result_and_gradients_are_those_of_attention(
    monkeypatch: pytest.MonkeyPatch, widths: tuple[int, ...], is_compiled: bool
) -> None:
    monkeypatch.setattr(flash4, "_call", by_torch)
    torch.compiler.reset()
    function = torch.compile(attend, fullgraph=True, backend="aot_eager") if is_compiled else attend
    qkv = heads(*widths)
    found = function(*qkv, scale=SCALE, backend="flash_4")
    expected = mathematics(*qkv)[0]
    torch.testing.assert_close(found, expected)
    for x, y in zip(*(torch.autograd.grad(out.square().sum(), qkv) for out in (found, expected)), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


def test_a_copy_of_the_module_has_operators_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exported model brings its copy of this file, and may be loaded beside the package."""
    monkeypatch.setattr(flash4, "_call", by_torch)
    spec = importlib.util.spec_from_file_location("exported.model-1.models_flash4", flash4.__file__)
    assert spec and spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    qkv = heads(64, 64, 64)
    out_BLHJ = attend(*qkv, scale=SCALE, backend="flash_4")
    torch.testing.assert_close(out_BLHJ, mathematics(*qkv)[0])


def test_shapes_are_known_without_the_package() -> None:
    with FakeTensorMode(), torch.no_grad():
        q, k, v = (torch.empty(2, 8, 3, width, dtype=torch.bfloat16) for width in (80, 80, 64))
        assert attend(q, k, v, scale=SCALE, backend="flash_4").shape == (2, 8, 3, 64)


def test_missing_package_is_named() -> None:
    if flash4.is_available(torch.device("cuda")):
        pytest.skip("the package is here")
    with pytest.raises(RuntimeError, match="flash-attn-4 cannot be imported"):
        attend(*heads(64, 64, 64), scale=SCALE, backend="flash_4")


def test_no_kernel_on_a_cpu() -> None:
    assert not flash4.is_available(torch.device("cpu"))
