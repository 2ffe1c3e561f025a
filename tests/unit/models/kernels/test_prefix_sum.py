import pytest
import torch

from sisa_scale.models.kernels.prefix_sum import BLOCK_TOKENS, prefix_sum


@pytest.mark.parametrize("length", [1, 2, BLOCK_TOKENS - 1, BLOCK_TOKENS, BLOCK_TOKENS + 1, 3 * BLOCK_TOKENS + 5])
def test_it_is_the_cumulative_sum(length: int) -> None:
    x = torch.randn(2, length, 3, dtype=torch.float64)
    torch.testing.assert_close(prefix_sum(x), x.cumsum(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_keeps_shape_and_type(dtype: torch.dtype) -> None:
    out = prefix_sum(torch.ones(1, 200, 2, dtype=dtype))
    assert out.shape == (1, 200, 2)
    assert out.dtype == dtype
    assert out[0, :, 0].tolist() == list(range(1, 201))


@pytest.mark.parametrize("position", [0, 60, BLOCK_TOKENS - 1, BLOCK_TOKENS, 299])
def test_no_gradient_comes_from_later_positions(position: int) -> None:
    x = torch.randn(1, 300, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(prefix_sum(x)[:, position].sum(), x)
    assert (gradient[:, : position + 1] == 1).all()
    assert (gradient[:, position + 1 :] == 0).all()
