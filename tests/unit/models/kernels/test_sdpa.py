"""Attention kernels: one call, and a block of queries at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from sisa_scale.models.kernels.sdpa import BlockMasks, attend, attend_where, portable_backend


@given(st.integers(1, 100), st.integers(1, 40))
@settings(deadline=None)
def test_blocks_of_one_mask_are_those_of_the_whole(length: int, block: int) -> None:
    blocks = BlockMasks.causal(length, block, torch.zeros(1, dtype=torch.bfloat16))
    is_visible_LL = torch.ones(length, length, dtype=torch.bool).tril()
    for start in range(0, length, block):
        stop = min(start + block, length)
        mask = blocks.of(start, stop)
        assert mask.dtype == torch.bfloat16
        assert torch.equal(mask[0] == 0, is_visible_LL[start:stop, :stop])
        assert ((mask == 0) | mask.isneginf()).all()


def test_attention_by_blocks_is_that_of_one_call() -> None:
    q, k, v = (torch.randn(2, 70, 3, width, dtype=torch.float64) for width in (12, 12, 8))
    whole = attend(q, k, v, scale=0.3, backend="math")
    causal = BlockMasks.causal(70, 16, v)
    for start in range(16, 70, 16):
        now, seen = slice(start, min(start + 16, 70)), slice(0, min(start + 16, 70))
        found = attend_where(causal.of(start, now.stop), q[:, now], k[:, seen], v[:, seen], scale=0.3)
        torch.testing.assert_close(found, whole[:, now], rtol=0, atol=1e-12)


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
