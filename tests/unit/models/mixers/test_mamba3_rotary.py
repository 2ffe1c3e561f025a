"""Keys and queries of Mamba-3 against the plain formula and its gradients by autograd."""

import pytest
import torch
from torch import Tensor

from sisa_scale.models.mixers.mamba3_rotary import turned_heads
from sisa_scale.models.mixers.rotary import rotate

BATCH, LENGTH, HEADS, STATE = 2, 7, 3, 8


def plain(normed_BLRN: Tensor, bias_RHN: Tensor, phase_BLHA: Tensor) -> Tensor:
    x_BLRHN = normed_BLRN[..., None, :] + bias_RHN
    turning, still = x_BLRHN.tensor_split([2 * phase_BLHA.shape[-1]], dim=-1)
    return torch.cat((rotate(turning, phase_BLHA.cos()[:, :, None], phase_BLHA.sin()[:, :, None]), still), dim=-1)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("num_angles", [1, 2, STATE // 2])
def test_results_and_gradients_are_those_of_the_formula(rank: int, num_angles: int) -> None:
    torch.manual_seed(rank)
    shapes = [(BATCH, LENGTH, rank, STATE)] * 2 + [(rank, HEADS, STATE)] * 2 + [(BATCH, LENGTH, HEADS, num_angles)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    keys, queries, key_bias, query_bias, phase = inputs
    found = turned_heads((keys, queries), (key_bias, query_bias), phase, torch.float64)
    expected = plain(keys, key_bias, phase), plain(queries, query_bias, phase)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights = torch.randn(2, *expected[0].shape, dtype=torch.float64)
    gradients = [
        torch.autograd.grad(sum((w * x).sum() for w, x in zip(weights, pair, strict=True)), inputs)
        for pair in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_heads_come_first_in_memory() -> None:
    keys, queries = torch.randn(2, BATCH, LENGTH, 1, STATE)
    bias, phase = torch.randn(2, 1, HEADS, STATE), torch.randn(BATCH, LENGTH, HEADS, 2)
    for x_BLRHN in turned_heads((keys, queries), (bias[0], bias[1]), phase, torch.bfloat16):
        assert x_BLRHN.dtype == torch.bfloat16
        assert x_BLRHN.shape == (BATCH, LENGTH, 1, HEADS, STATE)
        assert x_BLRHN.permute(0, 3, 1, 2, 4).is_contiguous()


def test_rounding_is_that_of_the_results() -> None:
    torch.manual_seed(0)
    keys, queries = torch.randn(2, BATCH, 64, 1, STATE)
    bias, phase = torch.randn(2, 1, HEADS, STATE), 10 * torch.randn(BATCH, 64, HEADS, STATE // 2)
    exact = plain(keys.double(), bias[0].double(), phase.double())
    found, _ = turned_heads((keys, queries), (bias[0], bias[1]), phase, torch.bfloat16)
    rounded = (exact.bfloat16() - exact).norm()
    assert (found - exact).norm() < 1.1 * rounded
