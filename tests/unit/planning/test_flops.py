import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.config.mixers.hymba import HymbaConfig
from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.kernels.prefix_sum import BLOCK_TOKENS
from sisa_scale.planning.flops import flops_per_token, keys_needed

LENGTH, BATCH = 256, 2


def tiny(d_s: int | None) -> ModelConfig:
    return ModelConfig(
        kind="sisa" if d_s else "transformer",
        num_layers=2,
        d_model=64,
        num_heads=2,
        d_ff=96,
        vocab_size=100,
        vocab_multiple=1,
        max_length_tokens=LENGTH,
        sisa=SisaConfig(d_s=d_s) if d_s else None,
    )


def counted(config: ModelConfig) -> float:
    """Return the operations of a forward pass per token, as torch counts them."""
    model = Decoder(config, ExecutionConfig(micro_batch_sequences=1), "math")
    model.initialise(0)
    tokens = torch.randint(0, config.vocab_size, (BATCH, LENGTH))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(tokens, tokens)
    return counter.get_total_flops() / (BATCH * LENGTH)


@pytest.mark.parametrize("d_s", [None, 16, 64])
def test_the_count_is_what_torch_counts(d_s: int | None) -> None:
    config = tiny(d_s)
    flops = flops_per_token(config, LENGTH)
    # The math kernel computes the masked half as well; we count the (L + 1) / 2 keys a query needs of its L.
    full = 2 * LENGTH / (LENGTH + 1)
    expected = flops.linear + flops.head + full * (flops.attention_content + flops.attention_importance)
    # Not in our count: the triangular products of the prefix sums, two a layer over decay and phase channels, and the
    # rows of zeros that make the width of SISA's projection a multiple of 64.
    channels = config.num_heads * (1 + d_s // 2) if d_s else 0
    sums = config.num_layers * 2 * channels * (BLOCK_TOKENS + (LENGTH / BLOCK_TOKENS) ** 2 / LENGTH)
    rows = -(3 * 64 + 2 * (2 * d_s + 1 + d_s // 2)) % 64 if d_s else 0
    padding = config.num_layers * 2 * rows * config.d_model
    assert counted(config) == pytest.approx(expected + sums + padding, rel=0.001)
    assert sums < (0.05 if d_s == 16 else 0.10) * flops.forward


@pytest.mark.parametrize("d_s", [16, 32, 64, 128])
def test_prefix_sums_are_small_in_real_models(d_s: int) -> None:
    config = ModelConfig(
        kind="sisa",
        num_layers=12,
        d_model=768,
        num_heads=12,
        d_ff=2000,
        vocab_size=50277,
        max_length_tokens=2048,
        sisa=SisaConfig(d_s=d_s),
    )
    sums = 12 * 2 * 12 * (1 + d_s // 2) * (BLOCK_TOKENS + (2048 / BLOCK_TOKENS) ** 2 / 2048)
    assert sums < 0.01 * flops_per_token(config, 2048).forward


def test_known_costs_of_the_published_152m() -> None:
    config = ModelConfig(
        kind="transformer",
        num_layers=12,
        d_model=768,
        num_heads=12,
        d_ff=3072,
        vocab_size=50277,
        max_length_tokens=2048,
    )
    flops = flops_per_token(config, 2048)
    assert flops.linear == pytest.approx(226.5e6, rel=1e-3)
    assert flops.head == pytest.approx(77.2e6, rel=1e-3)
    assert flops.attention_content == pytest.approx(37.7e6, rel=2e-3)
    assert flops.attention_importance == 0
    assert flops.forward == flops.linear + flops.head + flops.attention_content
    assert flops.train == 3 * flops.forward


def test_a_window_is_that_of_hymbas_layers_alone() -> None:
    hymba = HymbaConfig(window_tokens=16, num_meta_tokens=4, global_layers="first_middle_last")
    sizes = {"num_layers": 8, "d_model": 64, "num_heads": 2, "d_ff": 96, "vocab_size": 100, "max_length_tokens": LENGTH}
    config = ModelConfig(kind="pattern", pattern=("attention", "hymba"), hymba=hymba, **sizes)
    works = [config.spec(layer).work(config, layer).attention for layer in (2, 5)]
    layers = [keys_needed(work, LENGTH) for work in works if work is not None]
    seen = [min(position + 1, 20) for position in range(LENGTH)]
    assert layers == [(LENGTH + 1) / 2, sum(seen) / LENGTH]
