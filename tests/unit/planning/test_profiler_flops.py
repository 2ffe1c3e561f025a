"""Our FLOPs against those that torch counts, for every shipped recipe at its own width and length, and every mixer."""

import dataclasses
from contextlib import nullcontext
from typing import NamedTuple

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from zoo import TINY, tiny

from sisa_scale.config import load_config
from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.config.rope import RopeConfig
from sisa_scale.models.decoder import Decoder
from sisa_scale.planning.flops import flops_per_token
from sisa_scale.planning.profiler_flops import counted_flops_per_token
from sisa_scale.resources import resource_root

ROOT = resource_root("recipes")
RECIPES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*.yaml")
    if path.relative_to(ROOT).parts[0] not in ("base", "studies")
)


class Passes(NamedTuple):
    """Operations per token."""

    forward: float
    train: float


def counted(call: object, *arguments: torch.Tensor) -> Passes:
    """Return what torch counts of a module or function.

    The loss makes its gradients in its forward pass, so that the forward pass alone is counted without any.
    """
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        call(*(argument.detach() for argument in arguments))
    with FlopCounterMode(display=False) as both:
        call(*arguments).sum().backward()
    return Passes(forward.get_total_flops(), both.get_total_flops())


def measured(config: ModelConfig, length: int, *, is_fake: bool = False) -> Passes:
    """Return the operations per token of a model: its head, and one block of every kind times their number.

    With fake tensors the arithmetic is traced at full width and length, and nothing is computed.
    """
    execution = ExecutionConfig(micro_batch_sequences=1, precision="fp32", loss_chunk_tokens=length)
    with FakeTensorMode() if is_fake else nullcontext():
        model, kinds = Decoder(config, execution, "math"), {}
        x_BLD = torch.zeros(1, length + config.num_meta_tokens, config.d_model, requires_grad=True)
        cos_sin_2LK = torch.zeros(2, x_BLD.shape[1], config.rotary_width // 2)
        tokens = torch.zeros(1, length, dtype=torch.long)
        total = [counted(lambda x: model.head(x[:, :length], tokens, False), x_BLD)]
        for layer, (mixer, block) in enumerate(zip(config.mixers, model.blocks, strict=True)):
            kind = mixer, config.spec(layer).variant(config, layer)
            kinds[kind] = kinds.get(kind) or counted(block, x_BLD, cos_sin_2LK)
            total.append(kinds[kind])
    return Passes(*(sum(values) / length for values in zip(*total, strict=True)))


ABOVE_1_PERCENT = {"quickstart.yaml": 0.02, "mamba3/152m.yaml": 0.011}  # 40 of its 3328 rows are padding


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_count_of_every_recipe_is_torchs(recipe: str) -> None:
    run = load_config(recipe).config
    length = run.data.sequence_tokens
    found, expected = measured(run.model, length, is_fake=True), counted_flops_per_token(run.model, length)
    assert found.forward == pytest.approx(expected.forward, rel=1e-4)
    assert found.train == pytest.approx(expected.train, rel=1e-4)
    # The model's own operations alone, with the half of attention that is masked: what MFU leaves out is small.
    own = flops_per_token(run.model, length).forward + expected.masked_attention
    assert own == pytest.approx(found.forward, rel=ABOVE_1_PERCENT.get(recipe, 0.01))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("length", [96, 256])
def test_the_count_of_every_mixer_is_torchs(name: str, length: int) -> None:
    config = tiny(name)
    found, expected = measured(config, length), counted_flops_per_token(config, length)
    assert found.forward == pytest.approx(expected.forward, rel=1e-6)
    assert found.train == pytest.approx(expected.train, rel=1e-6)


CONTROLS: list[dict[str, object]] = [
    {"form": "query_blocks"},
    {"activation": "sigmoid"},
    {"has_rotation": False},
    {"decay_kind": "channels", "has_rotation": False},
]


@pytest.mark.parametrize("control", CONTROLS)
def test_forms_and_controls_count_what_they_compute(control: dict[str, object]) -> None:
    plain = tiny("sisa")
    config = dataclasses.replace(plain, sisa=dataclasses.replace(plain.sisa, **control), max_length_tokens=400)
    assert measured(config, 400).forward == pytest.approx(counted_flops_per_token(config, 400).forward, rel=1e-6)


@pytest.mark.parametrize("name", ["sisa", "hymba sisa"])
def test_sequences_longer_than_trained_count_what_they_compute(name: str) -> None:
    config = dataclasses.replace(
        tiny(name), max_length_tokens=400, trained_length_tokens=150, rope=RopeConfig(scaling="none")
    )
    assert measured(config, 400).forward == pytest.approx(counted_flops_per_token(config, 400).forward, rel=1e-6)
