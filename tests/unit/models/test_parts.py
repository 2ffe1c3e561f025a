import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention, silu

from sisa_scale.models.block import RMSNorm, SwiGLU
from sisa_scale.models.kernels.sdpa import attend, portable_backend
from sisa_scale.models.mixers.rotary import position_angles, rotate


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=4, max_size=4), st.floats(-7, 7), st.floats(-7, 7))
def test_a_rotation_turns_the_halves_and_keeps_the_length(x: list[float], first: float, second: float) -> None:
    angles = torch.tensor([first, second], dtype=torch.float64)
    vector = torch.tensor(x, dtype=torch.float64)
    turned = rotate(vector, angles.cos(), angles.sin())
    torch.testing.assert_close(turned.norm(), vector.norm())
    expected = torch.complex(vector[:2], vector[2:]) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned, torch.cat((expected.real, expected.imag)))


def test_position_angles() -> None:
    angles = position_angles(torch.arange(100), 8, 10000.0)
    assert angles.shape == (100, 4)
    assert angles.dtype == torch.float32
    for position in (0, 1, 99):
        expected = [position * 10000.0 ** (-i / 4) for i in range(4)]
        assert angles[position].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rms_norm(dtype: torch.dtype) -> None:
    norm = RMSNorm(8, 1e-6).to(torch.float64)
    norm.weight.data.normal_()
    x = (3 * torch.randn(2, 5, 8)).to(dtype)
    wide = x.double()
    expected = wide / torch.sqrt((wide**2).mean(-1, keepdim=True) + 1e-6) * norm.weight
    out = norm(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected.to(dtype))


def test_rms_norm_of_nothing_is_nothing() -> None:
    norm = RMSNorm(4, 1e-6)
    torch.nn.init.ones_(norm.weight)
    assert (norm(torch.zeros(1, 1, 4)) == 0).all()


def test_swiglu() -> None:
    mlp = SwiGLU(4, 6).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    gate, up = mlp.gate_up.weight[:6], mlp.gate_up.weight[6:]
    torch.testing.assert_close(mlp(x), (silu(x @ gate.T) * (x @ up.T)) @ mlp.down.weight.T)


@pytest.mark.parametrize(("backend", "width"), [("math", 8), ("flash", 12), ("flash_padded", 8), ("flash_padded", 12)])
def test_every_kernel_is_causal_softmax_attention(backend: str, width: int) -> None:
    q, k, v = torch.randn(2, 9, 3, 12), torch.randn(2, 9, 3, 12), torch.randn(2, 9, 3, width)
    out = attend(q, k, v, scale=0.3, backend=backend)
    logits = 0.3 * torch.einsum("blhk,bmhk->bhlm", q, k)
    weights = logits.masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf).softmax(-1)
    torch.testing.assert_close(out, torch.einsum("bhlm,bmhj->blhj", weights, v))


@pytest.mark.filterwarnings("ignore:Flash attention")
def test_a_kernel_that_cannot_is_not_replaced() -> None:
    q, v = torch.randn(1, 4, 1, 12), torch.randn(1, 4, 1, 8)
    scaled_dot_product_attention(q.transpose(1, 2), q.transpose(1, 2), v.transpose(1, 2))
    with pytest.raises(RuntimeError):
        attend(q, q, v, scale=1.0, backend="flash")


@pytest.mark.parametrize(
    ("device", "precision", "is_augmented", "backend"),
    [
        ("cpu", "bf16", True, "flash_padded"),
        ("cpu", "fp32", False, "flash"),
        ("cuda", "bf16", True, "flash_padded"),
        ("cuda", "fp32", True, "efficient"),
    ],
)
def test_portable_backends(device: str, precision: str, is_augmented: bool, backend: str) -> None:
    assert portable_backend(device, precision, is_augmented=is_augmented) == backend
