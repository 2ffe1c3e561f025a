"""Norms of queries and keys: what they compute, what they cost in parameters, where they are refused."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from zoo import TINY, decoder, tiny

from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.config.optimizer import OptimizerConfig
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.mixers.attention import Attention
from sisa_scale.models.mixers.head_norm import HeadNorm
from sisa_scale.models.mixers.local_attention import LocalAttention
from sisa_scale.models.mixers.rotary import position_cos_sin
from sisa_scale.models.mixers.sisa import Sisa
from sisa_scale.models.sizing import count_parameters
from sisa_scale.training.engine.optimizers import build_optimizer

WITH_HEADS = [name for name in TINY if not name.startswith(("mamba", "gated"))]
LENGTH = 24


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def with_norms(model: ModelConfig, **norms: bool) -> ModelConfig:
    sisa = model.sisa and dataclasses.replace(model.sisa, normalize_importance=True)
    return dataclasses.replace(model, **{"qk_norm": True, "sisa": sisa, **norms})


def readers(model: Decoder) -> list[Attention | Sisa | LocalAttention]:
    return [module for module in model.modules() if isinstance(module, Attention | Sisa | LocalAttention)]


def test_a_normalized_head_has_a_root_mean_square_of_one() -> None:
    norm = HeadNorm(with_norms(tiny("sisa"), qk_norm_gain=True))
    norm.initialise()
    x = 100 * torch.randn(2, 5, 2, 32) * torch.tensor([1e-1, 1e2])[:, None]
    for normed in (norm.content(x), norm.importance(x)):
        torch.testing.assert_close(normed.square().mean(-1), torch.ones(2, 5, 2))
        torch.testing.assert_close(normed, x / x.norm(dim=-1, keepdim=True) * math.sqrt(32))
    assert norm.gain is not None
    norm.gain.data = torch.linspace(-1, 2, 32)
    torch.testing.assert_close(norm.content(x), norm.importance(x) * torch.linspace(-1, 2, 32))


def test_half_precision_is_normalized_in_single_precision() -> None:
    norm = HeadNorm(with_norms(tiny("sisa")))
    x = torch.randn(2, 5, 2, 32).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert norm.content(x).dtype == norm.importance(x).dtype == torch.float32
        assert torch.equal(norm.content(x), norm.content(x.float()))
    assert norm.content(x.double()).dtype == torch.float64


def test_without_the_settings_nothing_is_normalized() -> None:
    norm, x = HeadNorm(tiny("sisa")), torch.randn(2, 5, 2, 32)
    assert norm.content(x) is x
    assert norm.importance(x) is x
    assert not list(norm.parameters())


@pytest.mark.parametrize("has_gain", [False, True])
@pytest.mark.parametrize("name", WITH_HEADS)
def test_the_size_of_projections_of_queries_and_keys_does_not_matter(name: str, has_gain: bool) -> None:
    """Ten times the queries and keys are the same function: content, and importance where the model has it."""
    model = decoder(with_norms(tiny(name), qk_norm_gain=has_gain)).double().eval()
    tokens = torch.randint(0, 100, (2, LENGTH))
    before = model.hidden(tokens)
    for block in model.blocks:
        if isinstance(block.mixer, Attention):
            rows = block.mixer.qkv.weight[: sum(block.mixer.qkv.widths[:2])]
        elif isinstance(block.mixer, Sisa):
            rows = block.mixer.project.weight[: sum(block.mixer.project.widths[:2])]
        elif hasattr(block.mixer, "attention"):
            rows = block.mixer.project.weight[: sum(block.mixer.attention.widths[:2])]
        else:
            continue
        rows.data.mul_(10)
    torch.testing.assert_close(model.hidden(tokens), before, rtol=1e-3, atol=1e-3)
    plain = decoder(tiny(name)).double().eval()
    assert (plain.hidden(tokens) - before).abs().max() > 1e-2 or "normalized" in name


def test_content_is_normalized_before_its_rotation() -> None:
    model = decoder(with_norms(tiny("transformer"), qk_norm_gain=True)).double()
    mixer = model.blocks[0].mixer
    gains: list[Tensor] = [torch.linspace(0, 1, 32).double(), torch.linspace(2, -1, 32).double()]
    mixer.query_norm.gain.data, mixer.key_norm.gain.data = gains
    x, turns = torch.randn(1, LENGTH, 64).double(), position_cos_sin(torch.arange(LENGTH), 32, 10000.0).double()
    q, k, v = (rows.view(LENGTH, 2, 32).transpose(0, 1) for rows in mixer.qkv(x).split(64, dim=-1)[:3])
    angle = torch.arange(LENGTH)[:, None] * 10000.0 ** -(torch.arange(16).double() / 16)

    def logits(q: Tensor, k: Tensor) -> Tensor:
        q, k = (
            torch.complex(*(t / (t.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain).chunk(2, -1))
            for t, gain in zip((q, k), gains, strict=True)
        )
        turn = torch.exp(1j * (angle[:, None] - angle[None, :]))
        return torch.einsum("hlc,hmc,lmc->hlm", q, k.conj(), turn).real

    future = torch.ones(LENGTH, LENGTH).triu(1).bool()
    weights = (logits(q, k) / 32**0.5).masked_fill(future, -math.inf).softmax(-1)
    wanted = (weights @ v).transpose(0, 1).reshape(1, LENGTH, 64) @ mixer.out.weight.T
    torch.testing.assert_close(mixer(x, turns), wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", WITH_HEADS)
def test_gains_are_counted_and_nothing_else_is_added(name: str) -> None:
    plain = dataclasses.replace(tiny(name), qk_norm_gain=False)
    for norms, gains in (({}, 0), ({"qk_norm_gain": True}, plain.num_head_layers * 2 * 32)):
        config = with_norms(plain, **norms)
        assert not list(config.violations())
        with torch.device("meta"):
            model = Decoder(config, ExecutionConfig(micro_batch_sequences=1), "math")
        total = sum(p.numel() for p in model.parameters())
        assert total == count_parameters(config).total == count_parameters(plain).total + gains
        assert len(readers(model)) == plain.num_head_layers


@pytest.mark.parametrize("name", WITH_HEADS)
def test_a_state_without_the_norms_fits_a_model_with_them(name: str) -> None:
    """Norms without gain have no weights, so every checkpoint has the same names, with them and without."""
    plain = decoder(dataclasses.replace(tiny(name), qk_norm_gain=False))
    decoder(with_norms(tiny(name), qk_norm_gain=False)).load_state_dict(plain.state_dict())


def test_gains_are_not_decayed() -> None:
    model = decoder(with_norms(tiny("sisa"), qk_norm_gain=True))
    groups = {
        group["name"]: group for group in build_optimizer(model, OptimizerConfig(learning_rate=1e-3)).param_groups
    }
    gains = {id(p) for name, p in model.named_parameters() if name.endswith("_norm.gain")}
    assert len(gains) == 8
    assert gains <= {id(p) for p in groups["vectors"]["params"]}
    assert groups["vectors"]["weight_decay"] == 0.0


@pytest.mark.parametrize("name", [name for name in TINY if "normalized" in name])
def test_every_weight_gets_a_gradient_in_half_precision(name: str) -> None:
    model = decoder(tiny(name))
    tokens = torch.randint(0, 100, (2, LENGTH + 1))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens[:, :-1], tokens[:, 1:])
    assert isinstance(loss, Tensor)
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


PUBLISHED = SisaConfig(d_s=16, form="published")


@pytest.mark.parametrize(
    ("model", "settings", "key"),
    [
        ("mamba2", {"qk_norm": True}, "qk_norm"),
        ("mamba3", {"qk_norm": True, "qk_norm_gain": True}, "qk_norm"),
        ("transformer", {"qk_norm_gain": True}, "qk_norm_gain"),
        ("mamba2", {"qk_norm_gain": True}, "qk_norm_gain"),
        ("sisa", {"qk_norm": True, "sisa": PUBLISHED}, "qk_norm"),
        ("pattern", {"qk_norm": True, "sisa": PUBLISHED}, "qk_norm"),
    ],
)
def test_what_does_not_go_together_is_refused(model: str, settings: dict[str, object], key: str) -> None:
    (violation,) = dataclasses.replace(tiny(model), **settings).violations()  # type: ignore[arg-type]
    assert violation.key == key
