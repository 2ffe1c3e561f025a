"""Attention in a window, by blocks, against a mask over all keys. Shapes: B, L, M keys, H heads, K and J channels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sisa_scale.models.kernels.window import attend_window, sees

SCALE = 0.5


def heads(length: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(2, length, 3, width, generator=generator).double().requires_grad_() for width in (6, 6, 4)]


def dense(q: Tensor, k: Tensor, v: Tensor, window: int, document_BL: Tensor | None) -> Tensor:
    place = torch.arange(q.shape[1])
    between = place[:, None] - place
    is_seen = ((between >= 0) & (between < window)).expand(q.shape[0], -1, -1)
    if document_BL is not None:
        is_seen = is_seen & (document_BL[:, :, None] == document_BL[:, None, :])
    logits = SCALE * torch.einsum("blhk,bmhk->bhlm", q, k)
    weights = logits.masked_fill(~is_seen[:, None], -torch.inf).softmax(-1)
    return torch.einsum("bhlm,bmhj->blhj", weights, v)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 90), window=st.integers(1, 100), has_documents=st.booleans())
def test_blocks_are_the_mask(length: int, window: int, has_documents: bool) -> None:
    qkv = heads(length)
    generator = torch.Generator().manual_seed(window)
    document_BL = (torch.rand(2, length, generator=generator) < 0.05).cumsum(1) if has_documents else None
    found = attend_window(*qkv, window_tokens=window, scale=SCALE, document_BL=document_BL)
    expected = dense(*qkv, window, document_BL)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weight = torch.randn(found.shape, generator=generator).double()
    gradients = (torch.autograd.grad((out * weight).sum(), qkv) for out in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_work_grows_with_the_window_and_not_with_the_square_of_the_length(dtype: torch.dtype) -> None:
    counts = []
    for length in (512, 1024):
        qkv = [x.detach().to(dtype) for x in heads(length)]
        with FlopCounterMode(display=False) as counter:
            out = attend_window(*qkv, window_tokens=32, scale=SCALE)
        assert out.dtype == dtype
        counts.append(counter.get_total_flops())
    assert counts[1] < 2.1 * counts[0]


def test_first_tokens_are_in_sight_of_every_window() -> None:
    place = torch.arange(6)
    assert sees(place, place, 2, 1).long().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 1, 1, 0, 0],
        [1, 0, 0, 1, 1, 0],
        [1, 0, 0, 0, 1, 1],
    ]
    assert torch.equal(sees(place, place, 0), torch.ones(6, 6).tril().bool())
