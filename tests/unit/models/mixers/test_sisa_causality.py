from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, softplus

from sisa_scale.models.decoder import Decoder
from sisa_scale.models.mixers.rotary import position_cos_sin, rotate
from sisa_scale.models.mixers.sisa import Sisa

LENGTH, CUT = 64, 40
BACKENDS = {"sisa": "flash_padded", "transformer": "flash"}
BuildDecoder = Callable[..., Decoder]
SetRange = Callable[[Sisa, float, int], None]
Mix = Callable[[Tensor], Tensor]


def leak(mix: Mix, x_BLD: Tensor) -> float:
    """Return the largest gradient of any output before the cut with respect to any input from the cut on."""
    x_BLD = x_BLD.detach().requires_grad_()
    out = mix(x_BLD)[:, :CUT]
    (gradient,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), x_BLD)
    assert gradient.isfinite().all()
    assert gradient[:, :CUT].abs().max() > 1e-4
    return gradient[:, CUT:].abs().max().item()


def published(mixer: Sisa, x_BLD: Tensor) -> Tensor:
    """The published form of SISA: its anchor is the middle of the whole sequence's range, its exponent is clamped."""
    batch, length, _ = x_BLD.shape
    q, k, v = (t.view(batch, length, mixer.num_heads, -1) for t in mixer.project(x_BLD).split(mixer.widths, dim=-1)[:3])
    decay, phase = mixer.rates(x_BLD)
    g = -decay.cumsum(1)
    offset = (g.amax(1, keepdim=True) + g.amin(1, keepdim=True)) / 2
    exponent = (g - offset).clamp(-11, 11)[..., None]
    position = position_cos_sin(torch.arange(length), mixer.head_width, 10000.0)[:, :, None]
    phase = phase.cumsum(1).view(batch, length, mixer.num_heads, -1)
    weight = mixer.head_width**0.25 * softplus(mixer.lambda_raw).sqrt()[:, None]

    def augmented(x: Tensor, factor: Tensor) -> Tensor:
        content, importance = x.split([mixer.head_width, mixer.d_s], -1)
        return torch.cat((rotate(content, *position), rotate(importance, phase.cos(), phase.sin()) * factor), -1)

    q, k = augmented(q, weight * exponent.exp()), augmented(k, weight * (-exponent).exp())
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    y = scaled_dot_product_attention(q, k, v, is_causal=True, scale=mixer.head_width**-0.5)
    return mixer.out(y.transpose(1, 2).reshape(x_BLD.shape))


@pytest.fixture
def mixer(build_decoder: BuildDecoder, request: pytest.FixtureRequest) -> Sisa:
    mixer = build_decoder(backend=getattr(request, "param", "math"), max_length_tokens=LENGTH).blocks[0].mixer
    assert isinstance(mixer, Sisa)
    for rows in mixer.project.rows()[:3]:
        rows.data.mul_(10)
    mixer.out.weight.data.mul_(50)
    return mixer


@pytest.mark.parametrize("nats", [5, 22, 79.9])
@pytest.mark.parametrize("mixer", ["math", "flash_padded"], indirect=True)
def test_no_gradient_comes_from_later_inputs(mixer: Sisa, set_range: SetRange, nats: float) -> None:
    set_range(mixer, nats, LENGTH)
    x = torch.randn(2, LENGTH, 32)
    assert mixer.rates(x)[0].sum(1).mean().item() == pytest.approx(nats, rel=0.1)
    turns = position_cos_sin(torch.arange(LENGTH), 16, 10000.0)
    assert leak(lambda x: mixer(x, turns), x) == 0.0


def test_the_same_probe_finds_the_leak_of_the_published_form(mixer: Sisa, set_range: SetRange) -> None:
    x, turns = torch.randn(2, LENGTH, 32), position_cos_sin(torch.arange(LENGTH), 16, 10000.0)
    set_range(mixer, 10, LENGTH)
    torch.testing.assert_close(published(mixer, x), mixer(x, turns), rtol=0, atol=1e-4)
    assert leak(lambda x: published(mixer, x), x) < 1e-6
    set_range(mixer, 60, LENGTH)
    assert leak(lambda x: published(mixer, x), x) > 1e-4
    assert leak(lambda x: mixer(x, turns), x) == 0.0


@pytest.mark.parametrize("kind", ["sisa", "transformer"])
@pytest.mark.parametrize("is_fast", [False, True])
def test_the_whole_model_does_not_look_ahead(
    build_decoder: BuildDecoder, tokens: Tensor, kind: str, is_fast: bool
) -> None:
    model = build_decoder(kind, backend=BACKENDS[kind] if is_fast else "math")
    embedded = model.embedding(tokens[:, :-1]).detach()

    def run(x_BLD: Tensor) -> Tensor:
        handle = model.embedding.register_forward_hook(lambda *_: x_BLD)
        try:
            return model.hidden(tokens[:, :-1])
        finally:
            handle.remove()

    assert leak(run, embedded) == 0.0


@pytest.mark.parametrize("kind", ["sisa", "transformer"])
@pytest.mark.parametrize("cut", [1, 17, 63])
def test_a_prefix_is_read_as_it_is_alone(
    build_decoder: BuildDecoder, set_range: SetRange, tokens: Tensor, kind: str, cut: int
) -> None:
    model = build_decoder(kind)
    for block in model.blocks if kind == "sisa" else ():
        set_range(block.mixer, 79.9, LENGTH)
    whole = model.hidden(tokens[:, :-1])
    torch.testing.assert_close(model.hidden(tokens[:, :cut]), whole[:, :cut], rtol=0, atol=1e-5)
    other = torch.cat((tokens[:, :cut], (tokens[:, cut:-1] + 1) % 50), 1)
    assert torch.equal(model.hidden(other)[:, :cut], whole[:, :cut])
