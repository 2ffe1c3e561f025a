"""SISA against its definition, written here with complex numbers and differences instead of factors."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from sisa_scale.models.decoder import Decoder
from sisa_scale.models.mixers.rotary import position_cos_sin
from sisa_scale.models.mixers.sisa import Sisa

LENGTH = 64
SetRange = Callable[[Sisa, float, int], None]
BuildDecoder = Callable[..., Decoder]


def pairs(x_BLHC: Tensor, content: int) -> tuple[Tensor, Tensor]:
    """Return the content and the importance channels as complex numbers; a pair is (c, c + half of their number)."""
    parts = x_BLHC[..., :content], x_BLHC[..., content:]
    z, w = (torch.complex(*part.chunk(2, dim=-1)) for part in parts)
    return z, w


def scores(q_BLHC: Tensor, k_BLHC: Tensor, angles_BLHC: Tensor) -> Tensor:
    """Return Re(q_i e^{i a_i} conj(k_j e^{i a_j})) summed over the channels, (B, H, L, L)."""
    turn = torch.polar(torch.ones_like(angles_BLHC), angles_BLHC)
    return torch.einsum("blhc,bmhc->bhlm", q_BLHC * turn, (k_BLHC * turn).conj()).real


def reference(mixer: Sisa, x_BLD: Tensor) -> Tensor:
    """Return what the mixer should, from the explicit logits in float64."""
    batch, length, width = x_BLD.shape
    heads, d_h, d_s = mixer.num_heads, mixer.head_width, mixer.d_s
    weights = {name: p.detach().double() for name, p in mixer.named_parameters()}
    x = x_BLD.detach().double()
    widths = [heads * (d_h + d_s)] * 2 + [width, heads, heads * d_s // 2]
    q, k, v, raw, phase = (x @ weights["project.weight"].T).split(widths, dim=-1)
    q, k, v = (t.view(batch, length, heads, -1) for t in (q, k, v))
    (q, c), (k, b) = pairs(q, d_h), pairs(k, d_h)

    frequencies = 10000.0 ** -(torch.arange(0, d_h, 2).double() / d_h)
    positions = torch.arange(length).double()[:, None] * frequencies
    g = -(mixer.decay_limit * torch.tanh(softplus(raw + weights["decay_bias"]) / mixer.decay_limit)).cumsum(1)
    phi = phase.cumsum(1).view(batch, length, heads, d_s // 2)

    g = g.transpose(1, 2)
    decay = (g[..., :, None] - g[..., None, :]).tril().exp()
    importance = softplus(weights["lambda_raw"])[:, None, None] * decay * scores(c, b, phi)
    logits = scores(q, k, positions[None, :, None].expand(batch, -1, heads, -1)) / d_h**0.5 + importance
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    y = logits.masked_fill(future, -torch.inf).softmax(-1) @ v.transpose(1, 2)
    return y.transpose(1, 2).reshape(batch, length, width) @ weights["out.weight"].T


def build_mixer(build_decoder: BuildDecoder, d_s: int, backend: str = "math") -> Sisa:
    """Return a mixer whose every weight is large enough to matter."""
    mixer = build_decoder(d_s=d_s, backend=backend, max_length_tokens=LENGTH).blocks[0].mixer
    assert isinstance(mixer, Sisa)
    with torch.no_grad():
        mixer.project.weight.mul_(10)
        mixer.lambda_raw.normal_()
    return mixer


@pytest.mark.parametrize("nats", [5, 22, 79.9])
@pytest.mark.parametrize("d_s", [16, 32, 64, 128])
def test_one_attention_call_is_the_definition(
    build_decoder: BuildDecoder, set_range: SetRange, d_s: int, nats: float
) -> None:
    mixer = build_mixer(build_decoder, d_s).double()
    set_range(mixer, nats, LENGTH)
    x = torch.randn(2, LENGTH, 32, dtype=torch.float64)
    frequencies = 10000.0 ** -(torch.arange(0, 16, 2).double() / 16)
    angles = torch.arange(LENGTH).double()[:, None] * frequencies
    assert mixer.rates(x)[0].sum(1).mean().item() == pytest.approx(nats, rel=0.2)
    torch.testing.assert_close(
        mixer(x, torch.stack((angles.cos(), angles.sin()))), reference(mixer, x), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("backend", ["math", "flash_padded"])
@pytest.mark.parametrize("nats", [5, 79.9])
def test_single_precision_is_close_to_the_definition(
    build_decoder: BuildDecoder, set_range: SetRange, nats: float, backend: str
) -> None:
    mixer = build_mixer(build_decoder, 32, backend)
    set_range(mixer, nats, LENGTH)
    x = torch.randn(2, LENGTH, 32)
    torch.testing.assert_close(
        mixer(x, position_cos_sin(torch.arange(LENGTH), 16, 10000.0)).double(), reference(mixer, x), rtol=0, atol=2e-5
    )


@pytest.mark.parametrize("bias", [-20.0, -5.0, 0.0, 50.0])
def test_the_decay_of_a_sequence_never_exceeds_the_range(build_decoder: BuildDecoder, bias: float) -> None:
    mixer = build_mixer(build_decoder, 16)
    mixer.decay_bias.data.fill_(bias)
    decay, _ = mixer.rates(10 * torch.randn(2, LENGTH, 32))
    assert (decay >= 0).all()
    assert (decay.double().sum(1) <= 80 * (1 + 1e-6)).all()


def bf16_step(model: Decoder, tokens: Tensor) -> list[Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens[:, :-1], tokens[:, 1:])
    assert isinstance(loss, Tensor)
    loss.backward()
    return [loss, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize(
    ("backend", "nats", "is_finite"),
    [("math", 80.0, True), ("flash_padded", 80.0, True), ("flash_padded", 160.0, True), ("math", 160.0, False)],
)
def test_half_precision_is_finite_at_the_largest_range_a_config_allows(
    build_decoder: BuildDecoder, tokens: Tensor, backend: str, nats: float, is_finite: bool
) -> None:
    model = build_decoder(backend=backend, decay_range_nats=nats)
    for block in model.blocks:
        block.mixer.decay_bias.data.fill_(10.0)
        for rows in block.mixer.project.rows()[:3]:
            rows.data.mul_(20)
    results = bf16_step(model, tokens)
    assert len(results) == 1 + len(list(model.parameters()))
    # RunConfig refuses the math kernel beyond 80 nats: its masked logits overflow there.
    assert all(x.isfinite().all() for x in results) == is_finite
