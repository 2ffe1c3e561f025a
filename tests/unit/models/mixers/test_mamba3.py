"""Mamba-3 against its recurrence with complex rotations, and against the published counts and initial values."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from sisa_scale.config.mixers.mamba import Mamba3Config
from sisa_scale.models.mixers.mamba3 import Mamba3

NO_TURNS = torch.zeros(0)


def turn(x: Tensor, phase: Tensor) -> Tensor:
    """Multiply channel pair (c, c + A) as a complex number by exp(i phase); (B, R, H, N) and (B, H, A)."""
    pairs = phase.shape[-1]
    first, second, still = x.tensor_split((pairs, 2 * pairs), dim=-1)
    z = torch.complex(first, second) * torch.polar(torch.ones_like(phase), phase)[:, None]
    return torch.cat((z.real, z.imag, still), dim=-1)


def reference(mixer: Mamba3, x: Tensor) -> Tensor:
    """The exponential-trapezoidal recurrence as a loop over tokens, all ranks at once."""
    p, config = {name: value.detach() for name, value in mixer.named_parameters()}, mixer.config
    batch, length, width = x.shape
    n, rank, inner = config.state_width, config.mimo_rank, config.expand * width
    heads, angles = inner // config.head_width, int(n * config.rotary_fraction) // 2
    z, values, keys, queries, dt, rate, trapezoid, angle = (x @ p["project.weight"].T).split(
        [inner, inner, rank * n, rank * n, heads, heads, heads, angles], dim=-1
    )

    def prepared(name: str, raw: Tensor) -> Tensor:
        raw = raw.view(batch, length, rank, 1, n)
        normed = raw / (raw.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}_norm.weight"]
        return normed + p[f"{name}_bias"].view(rank, heads, n)

    def ranked(name: str, raw: Tensor) -> Tensor:
        raw = raw.view(batch, length, 1, heads, -1).expand(-1, -1, rank, -1, -1)
        return raw * p[name].view(rank, heads, -1) if rank > 1 else raw

    keys, queries = prepared("key", keys), prepared("query", queries)
    values, gates = ranked("value_scale", values), silu(ranked("gate_scale", z))
    delta, share = softplus(dt + p["dt_bias"]), torch.sigmoid(trapezoid)
    alpha = torch.exp(delta * (-softplus(rate)).clamp(max=-1e-4))
    phase = torch.zeros(batch, heads, angles, dtype=x.dtype)
    h = torch.zeros(batch, heads, n, config.head_width, dtype=x.dtype)
    last, ys = torch.zeros_like(h), []
    for t in range(length):
        phase = (phase + math.pi * torch.tanh(angle[:, t])[:, None] * delta[:, t, :, None]) % (2 * math.pi)
        key, query = turn(keys[:, t], phase), turn(queries[:, t], phase)
        outer = torch.einsum("brhn,brhp->bhnp", key, values[:, t])
        a, u, d = (s[:, t, :, None, None] for s in (alpha, share, delta))
        h = a * h + (1 - u) * d * a * last + u * d * outer
        last = outer
        y = torch.einsum("brhn,bhnp->brhp", query, h) + p["skip"][:, None] * values[:, t]
        y = y * gates[:, t]
        if rank > 1:
            y = y * p["out_scale"].view(rank, heads, -1)
        ys.append(y.sum(1).flatten(1))
    return torch.stack(ys, 1) @ p["out.weight"].T


@pytest.mark.parametrize("chunk", [4, 16])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_the_mixer_is_its_recurrence(rank: int, chunk: int, fraction: float) -> None:
    config = Mamba3Config(state_width=8, head_width=8, chunk_tokens=chunk, mimo_rank=rank, rotary_fraction=fraction)
    mixer = Mamba3(12, config).double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    rate = sum(mixer.project.widths[:5])
    mixer.project.weight.data[rate : rate + mixer.num_heads] *= 10  # some decays reach their floor
    x = torch.randn(2, 37, 12).double()
    expected = reference(mixer, x)
    assert expected.abs().mean() > 0.1
    torch.testing.assert_close(mixer(x, NO_TURNS), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("d_model", "count"), [(512, 1_673_888), (768, 3_708_848), (1024, 6_542_528)])
def test_a_block_has_the_published_number_of_parameters(d_model: int, count: int) -> None:
    with torch.device("meta"):
        mixer = Mamba3(d_model, Mamba3Config())
    inner, heads, n = 2 * d_model, d_model // 32, 64
    formula = d_model * (2 * inner + 2 * n + 3 * heads + 16) + heads + 2 * heads * n + 2 * n + heads + inner * d_model
    assert sum(p.numel() for p in mixer.parameters()) == formula == count - d_model


def test_ranks_add_keys_queries_biases_and_scales() -> None:
    counts = []
    for rank in (1, 4):
        with torch.device("meta"):
            mixer = Mamba3(768, Mamba3Config(mimo_rank=rank))
        counts.append(sum(p.numel() for p in mixer.parameters()))
    assert counts[1] - counts[0] == 3 * 2 * 64 * 768 + 3 * 2 * 24 * 64 + 3 * 4 * 1536


@pytest.mark.parametrize("rank", [1, 4])
def test_initial_values_are_as_published(rank: int) -> None:
    mixer = Mamba3(512, Mamba3Config(mimo_rank=rank))
    mixer.initialise(0.02, torch.Generator().manual_seed(0))
    delta = softplus(mixer.dt_bias)
    assert 1e-3 * 0.999 <= delta.min() < 3e-3 and 3e-2 < delta.max() <= 1e-1 * 1.001
    values = {name: set(p.tolist()) for name, p in mixer.named_parameters() if p.dim() == 1 and name != "dt_bias"}
    ones = ("skip", "key_norm.weight", "query_norm.weight", "key_bias", "query_bias")
    scales = {"value_scale": {1 / 4}, "gate_scale": {1.0}, "out_scale": {1 / 4}} if rank == 4 else {}
    assert values == {name: {1.0} for name in ones} | scales
    for linear in (mixer.project, mixer.out):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_only_projections_have_two_dimensions() -> None:
    mixer = Mamba3(64, Mamba3Config(mimo_rank=2))
    assert {name for name, p in mixer.named_parameters() if p.dim() >= 2} == {"project.weight", "out.weight"}


def test_heads_must_be_whole() -> None:
    with pytest.raises(ValueError, match="must divide expand x d_model = 96"):
        Mamba3(48, Mamba3Config())


def test_rules_of_the_section() -> None:
    assert Mamba3Config().num_angles == 16 and not list(Mamba3Config().violations())
    assert [v.key for v in Mamba3Config(state_width=6, rotary_fraction=0.5).violations()] == ["rotary_fraction"]
    assert [v.key for v in Mamba3Config(rotary_fraction=0.3, dt_min=1.0).violations()] == ["dt_min", "rotary_fraction"]
