"""Causal attention a block of queries at a time."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sisa_scale.models.kernels.sdpa import BlockMasks, attend, attend_where


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
