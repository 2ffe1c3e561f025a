import pytest
import torch
from torch.nn.functional import silu

from sisa_scale.models.block import RMSNorm, SwiGLU


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
