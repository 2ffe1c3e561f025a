"""What is read of every block, against its own arithmetic."""

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from zoo import decoder, tiny

from sisa_scale.models.health import _Logits, largest_logit, read_blocks


@pytest.mark.parametrize("num_keys", [2, 6])
def test_the_largest_logit_is_of_visible_pairs_alone(num_keys: int) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 6, 300, 8), torch.randn(2, num_keys, 300, 8)
    k[:, :, 299] = 40.0  # seen by the last query alone
    logits = 0.5 * q @ k.repeat_interleave(6 // num_keys, dim=1).transpose(-1, -2)
    visible = torch.ones(300, 300, dtype=torch.bool).tril()
    expected = (logits.abs() * visible).max().item()
    assert largest_logit(q, k, 0.5, None, is_causal=True) == pytest.approx(expected, rel=1e-5)
    assert expected < logits.abs().max().item()
    added = torch.zeros(300, 300).masked_fill(~visible, -torch.inf)
    for mask in (visible[None, None], added[None, None], added):
        assert largest_logit(q, k, 0.5, mask, is_causal=False) == pytest.approx(expected, rel=1e-5)


def test_attention_is_looked_at_and_left_as_it_is() -> None:
    q, k, v = torch.randn(3, 1, 2, 16, 4).unbind()
    plain = scaled_dot_product_attention(q, k, v, is_causal=True)
    reader = _Logits()
    reader.largest.append(math.nan)
    with reader:
        seen = scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.equal(plain, seen)
    assert reader.largest == [pytest.approx(largest_logit(q, k, None, None, is_causal=True))]


@pytest.mark.parametrize("kind", ["transformer", "sisa", "mamba2"])
def test_every_block_has_a_reading(kind: str) -> None:
    model = decoder(tiny(kind))
    tokens = torch.randint(0, 100, (1, 24))
    readings = read_blocks(model, tokens)
    assert len(readings) == model.config.num_layers
    assert all(reading.activation_rms > 0 for reading in readings)
    assert all(math.isnan(reading.largest_logit) == (kind == "mamba2") for reading in readings)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in model.blocks)
    if kind == "sisa":
        parts = model.monitor(tokens)
        for reading, layer in zip(readings, parts, strict=True):
            most = layer.largest_content_logit + layer.largest_importance_logit
            assert 0 < reading.largest_logit <= most * 1.01
