"""Every architecture in the same decoder: counts, causality, movement."""

import dataclasses

import pytest
import torch
from zoo import TINY, decoder, tiny

from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.config.mixers.jamba import JambaConfig
from sisa_scale.config.mixers.mamba import Mamba2Config, Mamba3Config
from sisa_scale.config.model import ModelConfig
from sisa_scale.config.optimizer import OptimizerConfig
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.sizing import count_parameters
from sisa_scale.training.engine.optimizers import build_optimizer, set_learning_rate

SIZES = {"50m": (512, 6), "152m": (768, 12), "369m": (1024, 24)}
MAMBA2, MAMBA3 = Mamba2Config(), Mamba3Config()


def stack(kind: str, layers: int, d_model: int) -> ModelConfig:
    section = {"mamba2": MAMBA2} if kind == "mamba2" else {"mamba3": MAMBA3}
    sizes = {"num_layers": layers, "d_model": d_model, "d_ff": 0, "vocab_size": 50277, "vocab_multiple": 1}
    return ModelConfig(kind=kind, max_length_tokens=2048, **sizes, **section)


@pytest.mark.parametrize(
    ("kind", "layers", "d_model", "total"),
    [
        ("mamba2", 14, 512, 48_897_440),
        ("mamba2", 31, 768, 152_271_160),
        ("mamba2", 49, 1024, 368_482_528),
        ("mamba3", 14, 512, 49_176_768),
        ("mamba3", 30, 768, 149_878_944),
        ("mamba3", 48, 1024, 365_526_016),
    ],
)
def test_pure_stacks_have_the_published_counts(kind: str, layers: int, d_model: int, total: int) -> None:
    assert count_parameters(stack(kind, layers, d_model)).total == total


@pytest.mark.parametrize(
    ("size", "mixer", "every", "offset", "d_ff", "total"),
    [
        ("50m", "mamba2", 6, 3, 1720, 50_915_696),
        ("50m", "mamba3", 6, 3, 1709, 50_914_080),
        ("152m", "mamba2", 6, 3, 2600, 151_891_408),
        ("152m", "mamba3", 6, 3, 2584, 151_873_760),
        ("369m", "mamba2", 8, 4, 2296, 369_230_944),
        ("369m", "mamba3", 8, 4, 2275, 369_219_520),
    ],
)
def test_jamba_counts(size: str, mixer: str, every: int, offset: int, d_ff: int, total: int) -> None:
    d_model, layers = SIZES[size]
    section = {"mamba2": MAMBA2} if mixer == "mamba2" else {"mamba3": MAMBA3}
    jamba = JambaConfig(attention_every=every, attention_offset=offset, state_space=mixer)
    config = ModelConfig(
        kind="jamba", num_layers=layers, d_model=d_model, num_heads=d_model // 64, d_ff=d_ff, vocab_size=50277,
        vocab_multiple=1, max_length_tokens=2048, position="none", jamba=jamba, **section,
    )  # fmt: skip
    assert count_parameters(config).total == total


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("d_ff", [0, 96])
def test_counts_are_those_of_the_model(name: str, d_ff: int) -> None:
    config = tiny(name, d_ff)
    with torch.device("meta"):
        model = Decoder(config, ExecutionConfig(micro_batch_sequences=1), "math")
    assert sum(p.numel() for p in model.parameters()) == count_parameters(config).total


@pytest.mark.parametrize("name", TINY)
def test_no_output_depends_on_a_later_token(name: str) -> None:
    model, position = decoder(tiny(name)).double(), 100
    tokens = torch.randint(0, 100, (1, 160))
    changed = tokens.clone()
    changed[:, position:] = torch.randint(0, 100, (1, 160 - position))
    before, after = model.hidden(tokens)[:, :position], model.hidden(changed)[:, :position]
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.hidden(tokens[:, :position]), before, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_moves(name: str) -> None:
    # Without weight decay, so that gradients alone move what moves; lambda has its own, smaller learning rate.
    config = tiny(name, d_ff=32)
    needs_depth = config.kind == "jamba" or "local" in name
    model = decoder(config if needs_depth else dataclasses.replace(config, num_layers=2))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=1e-3, weight_decay=0.0))
    set_learning_rate(optimizer, 1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        tokens = torch.randint(0, 100, (1, 17), generator=generator)
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name: (p.detach() - before[name]).abs() for name, p in model.named_parameters()}
    assert {name for name, by in moved.items() if not by.isfinite().all()} == set()
    assert {name: (by > 0).float().mean().item() for name, by in moved.items() if (by == 0).any()} == {}
    # A step of AdamW moves by about the learning rate: 200 of them, however their signs fall, by more than one.
    assert {name for name, by in moved.items() if by.mean() < (1e-4 if name.endswith("lambda_raw") else 1e-3)} == set()
