from dataclasses import replace

import pytest
import torch

from sisa_scale.config import load_config
from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.sizing import count_parameters

WIDTHS = {"50M": (512, 8, 6), "152M": (768, 12, 12), "369M": (1024, 16, 24)}


def published(size: str, d_ff: int, d_s: int | None) -> ModelConfig:
    d_model, num_heads, num_layers = WIDTHS[size]
    return ModelConfig(
        kind="sisa" if d_s else "transformer",
        num_layers=num_layers,
        d_model=d_model,
        num_heads=num_heads,
        d_ff=d_ff,
        vocab_size=50277,
        vocab_multiple=1,
        max_length_tokens=2048,
        sisa=SisaConfig(d_s=d_s) if d_s else None,
    )


@pytest.mark.parametrize(
    ("size", "d_s", "d_ff", "total"),
    [
        ("50M", None, 2048, 50_914_304),
        ("152M", None, 3072, 151_878_144),
        ("369M", None, 2944, 369_252_352),
        ("50M", 16, 1939, 50_917_472),
        ("50M", 32, 1832, 50_914_400),
        ("50M", 64, 1619, 50_917_472),
        ("50M", 128, 1192, 50_914_400),
        ("152M", 16, 2908, 151_878_432),
        ("152M", 32, 2748, 151_878_432),
        ("152M", 64, 2428, 151_878_432),
        ("152M", 128, 1788, 151_878_432),
        ("369M", 16, 2725, 369_228_544),
        ("369M", 32, 2512, 369_253_120),
        ("369M", 64, 2085, 369_228_544),
        ("369M", 128, 1232, 369_253_120),
    ],
)
def test_the_published_models_have_the_published_size(size: str, d_s: int | None, d_ff: int, total: int) -> None:
    config = published(size, d_ff, d_s)
    with torch.device("meta"):
        model = Decoder(config, ExecutionConfig(micro_batch_sequences=1), "math")
    assert count_parameters(config).total == total
    assert sum(p.numel() for p in model.parameters()) == total


@pytest.mark.parametrize(
    ("size", "d_s", "per_layer"), [("50M", 16, 167_952), ("152M", 32, 746_520), ("369M", 128, 5_259_296)]
)
def test_what_importance_costs_a_layer(size: str, d_s: int, per_layer: int) -> None:
    counts = count_parameters(published(size, 1000, d_s))
    assert counts.importance_matrices + counts.importance_vectors == per_layer * WIDTHS[size][2]


@pytest.mark.parametrize(
    ("recipe", "total"),
    [("hymba/152m-sisa", 152_230_548), ("jamba/152m-sisa", 152_299_264), ("sisa/152m", 152_009_760)],
)
def test_hybrids_with_sisa_are_as_large_as_the_transformer(recipe: str, total: int) -> None:
    transformer = count_parameters(load_config("transformer/152m").config.model).total
    assert count_parameters(load_config(recipe).config.model).total == total == pytest.approx(transformer, rel=0.003)


def test_importance_in_grouped_heads_is_counted_by_group() -> None:
    # 12 heads of C, and 3 groups of B, half as many phases and a decay; a lambda for a head, a bias for a group.
    model = load_config("hymba/152m-sisa").config.model
    assert model.sisa is not None
    assert model.sisa.layer_parameters(768, 12, 0, 3) == (768 * (12 * 32 + 3 * (32 + 16 + 1)), 12 + 3)
    assert model.sisa.layer_parameters(768, 12, 0, 12) == model.sisa.layer_parameters(768, 12, 0)


def test_groups() -> None:
    config = published("50M", 2048, None)
    counts = count_parameters(config)
    assert (counts.importance_matrices, counts.importance_vectors) == (0, 0)
    assert counts.embedding == 50277 * 512
    assert counts.nonembedding == counts.total - counts.embedding
    assert count_parameters(replace(config, vocab_multiple=128)).embedding == 50304 * 512
