"""Gated DeltaNet's sizes, initial values and rules. Its arithmetic: test_recurrent_mixers, test_decoder_peers."""

from typing import Any

import pytest
import torch
from torch.nn.functional import softplus

from sisa_scale.config.mixers.gated_deltanet import GatedDeltaNetConfig
from sisa_scale.models.mixers.gated_deltanet import GatedDeltaNet


@pytest.mark.parametrize("d_model", [512, 768, 1024])
def test_a_layer_has_the_published_number_of_weights(d_model: int) -> None:
    with torch.device("meta"):
        mixer = GatedDeltaNet(d_model, GatedDeltaNetConfig())
    heads = mixer.num_heads
    assert heads == 1.5 * d_model / 128
    small = 2 * d_model * heads + 4 * 3 * d_model + 2 * heads + 128  # decay and rate, taps, A and its bias, the norm
    assert sum(p.numel() for p in mixer.parameters()) == 6 * d_model**2 + small
    assert {name for name, p in mixer.named_parameters() if p.dim() > 1} == {
        "project.weight",
        "conv.weight",
        "out.weight",
    }


def test_initial_values_are_as_published() -> None:
    mixer = GatedDeltaNet(1024, GatedDeltaNetConfig(head_width=8, key_width=8))
    mixer.initialise(0.02, torch.Generator().manual_seed(0))
    delta, rate = softplus(mixer.dt_bias), mixer.a_log.exp()
    assert 1e-3 * 0.999 <= delta.min() < 3e-3 and 3e-2 < delta.max() <= 1e-1 * 1.001
    assert 0.01 <= rate.min() < 0.5 and 15 < rate.max() <= 16 and rate.mean().item() == pytest.approx(8, rel=0.1)
    assert (mixer.norm.weight == 1).all() and mixer.conv.bias is None
    assert mixer.conv.weight.abs().max().item() == pytest.approx(0.5, rel=0.01)
    for linear in (mixer.project, mixer.out):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "key", "remedy"),
    [
        ({"chunk_tokens": 48}, "chunk_tokens", "Write 32"),
        ({"dt_min": 1.0}, "dt_min", "Swap"),
        ({"a_init": (16.0, 1.0)}, "a_init", "0.01, 16"),
        ({"head_width": 100}, "head_width", "The nearest is 96"),
        ({"expand": 1.4}, "head_width", "whole number"),
        ({"heads_per_key": 2}, "heads_per_key", "The nearest is 1"),
    ],
)
def test_rules_name_what_to_write(settings: dict[str, Any], key: str, remedy: str) -> None:
    config = GatedDeltaNetConfig(**settings)
    (violation,) = (*config.violations(), *config.width_violations(768))
    assert violation.key == key and remedy in violation.remedy


def test_heads_must_be_whole() -> None:
    with pytest.raises(ValueError, match="must divide expand x d_model = 72"):
        GatedDeltaNet(48, GatedDeltaNetConfig())
