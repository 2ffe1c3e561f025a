"""What lies around the kernel of flash-attn-4; the kernel itself is tested on a GPU (tests/gpu)."""

import dataclasses
import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from zoo import tiny

from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.models.kernels import flash4
from sisa_scale.models.kernels.sdpa import attend
from sisa_scale.models.mixers.sisa import Sisa

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


def test_sisa_makes_its_heads_as_wide_as_the_kernel_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(tiny("sisa"), sisa=SisaConfig(d_s=10))
    assert (config.head_width + 10) % flash4.WIDTH_MULTIPLE
    monkeypatch.setattr(flash4, "_call", by_torch)
    monkeypatch.setitem(globals(), "SCALE", config.head_width**-0.5)
    widths: list[int] = []
    monkeypatch.setattr(flash4, "filled", lambda x: widths.append(x.shape[-1]) or x)
    x_BLD = torch.randn(2, 12, config.d_model)
    cos_sin_2LK = torch.randn(2, 12, config.head_width // 2)
    found, expected = Sisa(config, "flash_4"), Sisa(config, "math")
    found.initialise(0.02, torch.Generator().manual_seed(0))
    expected.load_state_dict(found.state_dict())
    torch.testing.assert_close(found(x_BLD, cos_sin_2LK), expected(x_BLD, cos_sin_2LK), rtol=1e-4, atol=1e-5)
    assert widths[:2] == [flash4.kernel_width(config.head_width + 10)] * 2


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
    spec = importlib.util.spec_from_file_location("exported.model-1.models_kernels_flash4", flash4.__file__)
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
