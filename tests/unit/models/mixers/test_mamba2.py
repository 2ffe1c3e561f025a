"""Mamba-2 against its equations, token by token, and against the published counts and initial values."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad, silu, softplus

from sisa_scale.config.mixers.mamba import Mamba2Config
from sisa_scale.models.mixers.mamba2 import Mamba2

NO_TURNS = torch.zeros(0)


def reference(mixer: Mamba2, x: Tensor) -> Tensor:
    """The equations of section 7 of the paper as a loop over tokens."""
    p, config = {name: value.detach() for name, value in mixer.named_parameters()}, mixer.path.config
    (batch, length, width), n = x.shape, config.state_width
    inner = config.expand * width
    heads = inner // config.head_width
    projected = x @ p["project.weight"].T
    z, values, keys, queries, dt = projected.tensor_split((inner, 2 * inner, 2 * inner + n, 2 * inner + 2 * n), dim=-1)
    channels = pad(torch.cat((values, keys, queries), -1).transpose(1, 2), (config.conv_kernel - 1, 0))
    kernel = p["path.conv.weight"].T[:, None]
    mixed = silu(conv1d(channels, kernel, p["path.conv.bias"], groups=len(kernel))).transpose(1, 2)
    values, keys, queries = mixed.tensor_split((inner, inner + n), dim=-1)
    values = values.view(batch, length, heads, -1)
    delta = softplus(dt + p["path.dt_bias"])
    h, ys = torch.zeros(batch, heads, n, config.head_width, dtype=x.dtype), []
    for t in range(length):
        decay = torch.exp(-p["path.a_log"].exp() * delta[:, t])
        update = torch.einsum("bh,bn,bhp->bhnp", delta[:, t], keys[:, t], values[:, t])
        h = decay[..., None, None] * h + update
        ys.append(torch.einsum("bn,bhnp->bhp", queries[:, t], h) + p["path.skip"][:, None] * values[:, t])
    gated = torch.stack(ys, 1).flatten(2) * silu(z)
    normed = gated / (gated.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p["norm.weight"]
    return normed @ p["out.weight"].T


@pytest.mark.parametrize("chunk", [4, 16])
@pytest.mark.parametrize("kernel", [1, 4])
def test_the_mixer_is_its_equations(chunk: int, kernel: int) -> None:
    mixer = Mamba2(12, Mamba2Config(state_width=6, head_width=8, chunk_tokens=chunk, conv_kernel=kernel)).double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 37, 12).double()
    torch.testing.assert_close(mixer(x, NO_TURNS), reference(mixer, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("d_model", "count"), [(512, 1_653_936), (768, 3_666_376), (1024, 6_469_344)])
def test_a_block_has_the_published_number_of_parameters(d_model: int, count: int) -> None:
    with torch.device("meta"):
        mixer = Mamba2(d_model, Mamba2Config())
    inner, heads, n = 2 * d_model, d_model // 32, 64
    formula = d_model * (2 * inner + 2 * n + heads) + 5 * (inner + 2 * n) + 3 * heads + inner + inner * d_model
    assert sum(p.numel() for p in mixer.parameters()) == formula == count - d_model


def test_initial_values_are_as_published() -> None:
    mixer = Mamba2(512, Mamba2Config())
    mixer.initialise(0.02, torch.Generator().manual_seed(0))
    delta, rate = softplus(mixer.path.dt_bias), mixer.path.a_log.exp()
    assert 1e-3 * 0.999 <= delta.min() < 3e-3 and 3e-2 < delta.max() <= 1e-1 * 1.001
    assert 1 <= rate.min() < 4 and 12 < rate.max() <= 16.001
    assert torch.equal(mixer.path.skip, torch.ones(16)) and torch.equal(mixer.norm.weight, torch.ones(1024))
    for parameter in (mixer.path.conv.weight, mixer.path.conv.bias):
        assert parameter.abs().max().item() == pytest.approx(0.5, rel=0.01)
        assert parameter.std().item() == pytest.approx(1 / 12**0.5, rel=0.05)
    for linear in (mixer.project, mixer.out):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_only_matrices_and_the_convolution_have_two_dimensions() -> None:
    mixer = Mamba2(64, Mamba2Config())
    decayed = {name for name, p in mixer.named_parameters() if p.dim() >= 2}
    assert decayed == {"project.weight", "path.conv.weight", "out.weight"}


def test_heads_must_be_whole() -> None:
    with pytest.raises(ValueError, match=r"head_width 64: must divide expand x d_model = 96\. The nearest is 48"):
        Mamba2(48, Mamba2Config())


def test_rules_of_the_section() -> None:
    assert not list(Mamba2Config().violations())
    keys = [v.key for v in Mamba2Config(dt_min=0.2, a_init=(3.0, 1.0)).violations()]
    assert keys == ["dt_min", "a_init"]
