"""Controls of SISA: parameters, exact biases in bf16 channels, documents, what a config refuses."""

from typing import Any

import pytest
import torch
from sisa_reference import CONTROLS, LENGTH, WIDTH, build, model, parts, turns

from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.mixers.attention import Attention
from sisa_scale.models.mixers.importance import alibi_slopes, bias_channels, exact_pieces
from sisa_scale.models.mixers.sisa import Sisa

FORGET: dict[str, Any] = {"decay_kind": "forget_gate", "has_rotation": False}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("sisa", "matrices", "vectors"),
    [
        ({}, 32 * 2 * (2 * 16 + 8 + 1), 4),
        ({"form": "query_blocks"}, 32 * 2 * (2 * 16 + 8 + 1), 4),
        ({"decay_kind": "none"}, 32 * 2 * (2 * 16 + 8), 2),
        ({"has_rotation": False}, 32 * 2 * (2 * 16 + 1), 4),
        ({"decay_kind": "none", "has_rotation": False}, 32 * 2 * 2 * 16, 2),
        (FORGET, 32 * 2, 2),
        ({"decay_kind": "alibi", "has_rotation": False}, 0, 0),
        ({"decay_kind": "channels", "has_rotation": False}, 32 * 32, 32),
        ({"d_s": (8, 4)}, 32 * 2 * (2 * 4 + 2 + 1), 4),
        ({"normalize_importance": True}, 32 * 2 * (2 * 16 + 8 + 1), 4),
    ],
)
def test_parameters_are_counted_by_the_config(sisa: dict[str, Any], matrices: int, vectors: int) -> None:
    config = model(**sisa)
    assert config.sisa is not None
    mixer = Sisa(config, "math", layer=1)
    assert config.sisa.layer_parameters(32, 2, 1) == (matrices, vectors)
    assert sum(p.numel() for p in mixer.parameters()) == 4 * 32 * 32 + matrices + vectors
    mixer.initialise(0.02, torch.Generator().manual_seed(0))
    assert all(p.isfinite().all() for p in mixer.parameters())


@pytest.mark.parametrize("name", CONTROLS)
def test_every_parameter_gets_a_gradient_in_half_precision(name: str) -> None:
    mixer = build(60.0, **CONTROLS[name])
    with torch.autocast("cpu", torch.bfloat16):
        out = mixer(torch.randn(2, LENGTH, WIDTH), turns())
    (out.float() * torch.randn(out.shape)).sum().backward()
    assert out.isfinite().all()
    for parameter in mixer.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


@pytest.mark.parametrize("decay_kind", ["forget_gate", "alibi"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 1e-3), (torch.float32, 1e-5)])
@pytest.mark.parametrize("head_width", [64, 48])
def test_bias_channels_add_the_exact_bias(decay_kind: str, dtype: torch.dtype, bound: float, head_width: int) -> None:
    steps = alibi_slopes(2, torch.device("cpu")).expand(1, 2048, 2) if decay_kind == "alibi" else torch.rand(1, 2048, 2)
    g = -(0.3 * steps).double().cumsum(1)
    q, k = (x.to(dtype).float() for x in bias_channels(g.float(), head_width))
    bias = torch.einsum("blhk,bmhk->bhlm", q, k) * head_width**-0.5
    g = g.transpose(1, 2)
    wanted = (g[..., :, None] - g[..., None, :]).tril()
    error = (bias.tril() - wanted).abs()
    assert (error <= bound * wanted.abs().clamp(min=10.0)).all()
    assert error.max() < 1e-3


def test_alibi_is_exact_in_half_precision() -> None:
    g = -alibi_slopes(8, torch.device("cpu")) * torch.arange(2048)[None, :, None]
    q, k = (x.bfloat16().double() for x in bias_channels(g, 64))
    wanted = g.double().transpose(1, 2)
    bias = torch.einsum("blhk,bmhk->bhlm", q, k) / 8
    assert torch.equal(bias, wanted[..., :, None] - wanted[..., None, :])
    assert alibi_slopes(8, g.device).tolist() == [2.0**-h for h in range(1, 9)]
    assert alibi_slopes(16, g.device).tolist() == [2.0 ** -(1 + h // 2) for h in range(16)]


def test_three_pieces_hold_a_number_exactly() -> None:
    x = (300 * torch.randn(1000)).requires_grad_()
    pieces = exact_pieces(x)
    assert torch.equal(pieces.bfloat16().double().sum(-1), x.double())
    pieces.sum().backward()
    assert torch.equal(x.grad, torch.ones(1000))


@pytest.mark.parametrize("decay_kind", ["forget_gate", "alibi"])
def test_half_precision_attention_sees_the_bias(decay_kind: str) -> None:
    length = 2048
    mixer = build(300.0, length, "flash_padded", decay_kind=decay_kind, has_rotation=False)
    rows = parts(mixer, mixer.project.weight.data)
    for row in rows[:2]:
        row.zero_()  # the bias alone makes the logits
    x = torch.randn(1, length, WIDTH)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = mixer(x, turns(length)).double()
        v = (x @ rows[2].T).double().view(1, length, 2, -1).transpose(1, 2)
        g = -mixer.rates(x)[0].double().cumsum(1).transpose(1, 2)
    logits = (g[..., :, None] - g[..., None, :]).masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    wanted = (logits.softmax(-1) @ v).transpose(1, 2).reshape(1, length, WIDTH) @ mixer.out.weight.double().T
    assert (out - wanted).abs().max() <= 1e-2 * wanted.abs().max()


def split_documents(mixer: Any, x: torch.Tensor, ends: list[int]) -> torch.Tensor:
    documents = x.tensor_split(ends, dim=1)
    return torch.cat([mixer(part, turns(part.shape[1])) for part in documents if part.shape[1]], dim=1)


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("nats", [20.0, 75.0])
def test_packed_documents_are_read_as_if_alone(name: str, nats: float) -> None:
    mixer, x = build(nats, **CONTROLS[name]), torch.randn(2, LENGTH, WIDTH)
    ends = [[5, 40, 41], [48, 90]]
    document = torch.stack([(torch.arange(LENGTH)[:, None] >= torch.tensor(row)).sum(1) for row in ends])
    restarts = torch.stack(
        [(torch.arange(LENGTH) - torch.tensor([0, *row])[d]) for row, d in zip(ends, document, strict=True)]
    )
    with torch.no_grad():
        packed = mixer(x, turns()[:, restarts], document)
        alone = torch.cat([split_documents(mixer, x[i : i + 1], row) for i, row in enumerate(ends)])
    torch.testing.assert_close(packed, alone, rtol=0, atol=2e-5 * alone.abs().max())


def test_attention_reads_packed_documents_as_if_alone() -> None:
    sizes: dict[str, Any] = {"num_layers": 1, "d_model": WIDTH, "num_heads": 2, "d_ff": 8, "vocab_size": 8}
    mixer = Attention(ModelConfig(kind="transformer", max_length_tokens=LENGTH, **sizes), "math")
    mixer.initialise(0.2, torch.Generator().manual_seed(0))
    x, document = torch.randn(1, LENGTH, WIDTH), (torch.arange(LENGTH) >= 30)[None].long()
    packed = mixer(x, turns()[:, torch.arange(LENGTH) - 30 * document[0]][:, None], document)
    torch.testing.assert_close(packed, split_documents(mixer, x, [30]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("sisa", "key"),
    [
        ({"d_s": (16, 7)}, "d_s"),
        ({"decay_kind": "alibi"}, "has_rotation"),
        ({**FORGET, "logit_scale": "sqrt_d_s"}, "logit_scale"),
        ({**FORGET, "form": "query_blocks"}, "form"),
        ({"decay_kind": "none", "form": "query_blocks"}, "form"),
        ({"decay_kind": "channels", "has_rotation": False, "form": "query_blocks"}, "form"),
        ({"decay_kind": "channels"}, "has_rotation"),
        ({"form": "published", "activation": "sigmoid"}, "form"),
        ({"form": "published", "normalize_importance": True}, "normalize_importance"),
        ({**FORGET, "normalize_importance": True}, "normalize_importance"),
    ],
)
def test_what_does_not_go_together_is_refused(sisa: dict[str, Any], key: str) -> None:
    (violation,) = SisaConfig(**{"d_s": 16, **sisa}).violations()
    assert violation.key == key


def test_every_control_here_is_allowed() -> None:
    for settings in CONTROLS.values():
        config = model(**settings)
        assert config.sisa is not None
        assert not list(config.violations())
        assert not list(config.sisa.violations())


def test_layers_have_their_own_d_s() -> None:
    config = SisaConfig(d_s=(4, 8, 16))
    assert [config.d_s_of(layer) for layer in range(3)] == [4, 8, 16]
    assert not list(config.layer_violations(3))
    (violation,) = config.layer_violations(2)
    assert violation.key == "sisa.d_s"
    assert SisaConfig(d_s=32).d_s_of(7) == 32
    assert config.extra_channels(1) == 8
    assert SisaConfig(d_s=32, **FORGET).extra_channels(0) == 8


def test_the_logit_scale_divides_by_the_root_of_d_s() -> None:
    plain, scaled = build(20.0).double(), build(20.0, logit_scale="sqrt_d_s").double()
    assert scaled.weight().tolist() == pytest.approx((plain.weight() / 16**0.25).tolist())
