"""Dense products in 8-bit floats on a real GPU: as exact as their mantissas, compiled or not, each time the same."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sisa_scale.models.kernels.float8 import float8_linear
from sisa_scale.training.engine.float8_device import CAPABILITY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < CAPABILITY,
        reason="needs a CUDA device that multiplies 8-bit floats",
    ),
]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, device="cuda", generator=torch.Generator("cuda").manual_seed(seed))


def passes(product: Callable[..., Tensor], dtype: torch.dtype, num_padding_rows: int) -> list[Tensor]:
    """Return the output and both gradients."""
    x = (1e-3 * random(2, 512, 768, seed=0)).bfloat16().to(dtype).requires_grad_()
    weight = random(1088 - num_padding_rows, 768, seed=1).to(torch.promote_types(dtype, torch.float32)).requires_grad_()
    gradient = (1e-6 * random(2, 512, 1088, seed=2)).bfloat16().to(dtype)
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = product(x, weight, num_padding_rows)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), gradient)]


@pytest.mark.parametrize("num_padding_rows", [0, 30])
@pytest.mark.parametrize("compiled", [False, True])
def test_products_agree_with_float64(num_padding_rows: int, compiled: bool) -> None:
    from sisa_scale.models.kernels.fused_linear import padded_linear

    product = torch.compile(float8_linear) if compiled else float8_linear
    found = passes(product, torch.bfloat16, num_padding_rows)
    exact = passes(padded_linear, torch.float64, num_padding_rows)
    for got, want, bound in zip(found, exact, (0.053, 0.084, 0.084), strict=True):
        assert ((got.double() - want).norm() / want.norm()).item() < bound
    again = passes(product, torch.bfloat16, num_padding_rows)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
