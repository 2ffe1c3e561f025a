"""What holds for recurrent mixers: causality, prefixes, decoding, padding, training, half precision, compilation."""

import copy
import dataclasses
import math
import random
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor

from sisa_scale.config.mixers.gated_deltanet import GatedDeltaNetConfig
from sisa_scale.config.mixers.mamba import Mamba2Config, Mamba3Config
from sisa_scale.models.kernels.ssd import TokenWeights, ssd
from sisa_scale.models.mixers.gated_deltanet import GatedDeltaNet
from sisa_scale.models.mixers.mamba2 import Mamba2
from sisa_scale.models.mixers.mamba3 import Mamba3, Mamba3Cache
from sisa_scale.models.mixers.ssm_path import SsmPath

WIDTH, LENGTH, CHUNK = 16, 37, 8
UNUSED = torch.empty(0)
NO_TURNS = torch.zeros(0)
Mixer = Mamba2 | Mamba3 | GatedDeltaNet


def scanned(mixer: Mixer) -> SsmPath | Mamba3 | GatedDeltaNet:
    """Return the module that holds the recurrence and its settings."""
    return mixer.path if isinstance(mixer, Mamba2) else mixer


@pytest.fixture(params=["mamba2", "mamba3", "mamba3 rank 2", "gated_deltanet"])
def mixer(request: pytest.FixtureRequest) -> Mixer:
    """A small mixer whose every weight is large enough to matter."""
    widths = {"state_width": 8, "head_width": 8, "chunk_tokens": CHUNK}
    mixer: Mixer
    if request.param == "mamba2":
        mixer = Mamba2(WIDTH, Mamba2Config(**widths))
    elif request.param == "gated_deltanet":
        config = GatedDeltaNetConfig(expand=2.0, key_width=8, head_width=8, heads_per_key=2, chunk_tokens=CHUNK)
        mixer = GatedDeltaNet(WIDTH, config)
    else:
        mixer = Mamba3(WIDTH, Mamba3Config(**widths, mimo_rank=2 if "rank" in request.param else 1))
    mixer.initialise(0.5, torch.Generator().manual_seed(1))
    scanned(mixer).dt_bias.data.add_(3.0)
    return mixer


def extend_in_parts(mixer: Mixer, x: Tensor, cuts: list[int], is_token: Tensor | None = None) -> Tensor:
    cache = mixer.new_cache(len(x), x.device, x.dtype)
    parts = []
    for start, end in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        mask = None if is_token is None else is_token[:, start:end]
        parts.append(mixer.extend(x[:, start:end], cache, UNUSED, mask))
    return torch.cat(parts, 1)


# Within a chunk, its last token (whose weight in Mamba-3 knows the next chunk), and the first of a chunk.
@pytest.mark.parametrize("cut", [1, 5, CHUNK, CHUNK + 1, 20, LENGTH - 1])
def test_no_gradient_comes_from_later_inputs(mixer: Mixer, cut: int) -> None:
    x = torch.randn(2, LENGTH, WIDTH, requires_grad=True)
    out = mixer(x, NO_TURNS)[:, :cut]
    (gradient,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), x)
    assert gradient[:, :cut].abs().amax((0, 2)).min() > 1e-5
    assert gradient[:, cut:].abs().max().item() == 0.0


def test_the_weight_that_knows_the_next_token_reaches_later_outputs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # The probe above cannot see a leak in an input that has no effect; here the look-ahead weight itself is probed.
    seen: list[Tensor] = []

    def recording(*tensors: Tensor, weights: TokenWeights, **settings: Any) -> tuple[Tensor, Tensor]:
        seen.append(weights.later)
        return ssd(*tensors, weights=weights, **settings)

    monkeypatch.setattr("sisa_scale.models.mixers.mamba3.ssd", recording)
    mixer = Mamba3(WIDTH, Mamba3Config(state_width=8, head_width=8, chunk_tokens=CHUNK))
    mixer.initialise(0.5, torch.Generator().manual_seed(1))
    out = mixer(torch.randn(1, LENGTH, WIDTH), NO_TURNS)
    for t in (0, 5, CHUNK - 1, CHUNK, LENGTH - 2):
        (now,) = torch.autograd.grad(out[:, : t + 1].sum(), seen[0], retain_graph=True)
        (later,) = torch.autograd.grad(out[:, t + 1].sum(), seen[0], retain_graph=True)
        assert now[:, t:].abs().max().item() == 0.0
        assert later[:, t].abs().max() > 0


@pytest.mark.parametrize("cut", [1, 7, 8, 20])
def test_a_prefix_is_read_as_it_is_alone(mixer: Mixer, cut: int) -> None:
    mixer.double()
    x = torch.randn(2, LENGTH, WIDTH).double()
    whole = mixer(x, NO_TURNS)
    torch.testing.assert_close(mixer(x[:, :cut], NO_TURNS), whole[:, :cut], rtol=0, atol=1e-10)
    other = torch.cat((x[:, :cut], torch.randn_like(x[:, cut:])), 1)
    assert torch.equal(mixer(other, NO_TURNS)[:, :cut], whole[:, :cut])


def test_chunk_lengths_give_the_same_result(mixer: Mixer) -> None:
    mixer.double()
    x = torch.randn(2, LENGTH, WIDTH).double()
    expected = mixer(x, NO_TURNS)
    for chunk in (16, 64) if isinstance(mixer, GatedDeltaNet) else (1, 5, 64):
        other = type(mixer)(WIDTH, dataclasses.replace(scanned(mixer).config, chunk_tokens=chunk)).double()  # type: ignore[arg-type]
        other.load_state_dict(mixer.state_dict())
        torch.testing.assert_close(other(x, NO_TURNS), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("trial", range(6))
def test_any_split_of_a_sequence_gives_the_whole(mixer: Mixer, trial: int) -> None:
    mixer.double()
    x = torch.randn(2, LENGTH, WIDTH).double()
    cuts = list(range(1, LENGTH)) if trial == 0 else sorted(random.Random(trial).sample(range(1, LENGTH), trial - 1))
    torch.testing.assert_close(extend_in_parts(mixer, x, cuts), mixer(x, NO_TURNS), rtol=0, atol=1e-10)


@pytest.mark.parametrize("cuts", [[], [3], [9, 10], [20, 21, 22], list(range(1, LENGTH))])
def test_left_padding_has_no_influence(mixer: Mixer, cuts: list[int]) -> None:
    mixer.double()
    pads = (0, 1, 9, 20, LENGTH - 1)
    x = 100 * torch.randn(len(pads), LENGTH, WIDTH).double()
    is_token = torch.arange(LENGTH) >= torch.tensor(pads)[:, None]
    x[is_token] /= 100
    y = extend_in_parts(mixer, x, cuts, is_token)
    for row, start in enumerate(pads):
        alone = mixer(x[row : row + 1, start:], NO_TURNS)[0]
        torch.testing.assert_close(y[row, start:], alone, rtol=0, atol=1e-10)


def test_phases_stay_small_in_the_cache(mixer: Mixer) -> None:
    cache = mixer.new_cache(1, torch.device("cpu"), torch.float32)
    if isinstance(cache, Mamba3Cache):
        assert isinstance(mixer, Mamba3)
        for _ in range(20):
            mixer.extend(10 * torch.randn(1, 5, WIDTH), cache, UNUSED)
        assert cache.phase_BHA.min() >= 0 and 1 < cache.phase_BHA.max() < 2 * math.pi


def test_every_parameter_moves(mixer: Mixer) -> None:
    optimizer = torch.optim.AdamW(mixer.parameters(), lr=1e-3, weight_decay=0.0)
    before = {name: p.detach().clone() for name, p in mixer.named_parameters()}
    for _ in range(20):
        x = torch.randn(2, LENGTH, WIDTH)
        loss = (mixer(x, NO_TURNS) - x.roll(1, 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Adam moves a weight by about the learning rate a step, whatever the size of its gradient.
    moved = {name: (p.detach() - before[name]).abs().min().item() for name, p in mixer.named_parameters()}
    assert min(moved.values()) > 0
    assert min(p.isfinite().all() for p in mixer.parameters())


def test_bf16_autocast_is_close_to_float64(mixer: Mixer) -> None:
    x = torch.randn(2, LENGTH, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        y = mixer(x, NO_TURNS)
        decoded = extend_in_parts(mixer, x, [10, 11, 12])
    y.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixer.parameters())
    exact = copy.deepcopy(mixer).double()(x.double(), NO_TURNS)
    assert y.dtype == decoded.dtype == torch.bfloat16
    for result in (y, decoded):
        assert ((result.double() - exact).norm() / exact.norm()).item() < 0.02


def test_one_graph_holds_forward_and_backward(mixer: Mixer) -> None:
    mixer.double()
    x = torch.randn(2, LENGTH, WIDTH).double()
    results = []
    for run in (mixer, torch.compile(mixer, fullgraph=True, backend="aot_eager")):
        mixer.zero_grad()
        y = run(x, NO_TURNS)
        y.square().mean().backward()
        results.append([y.detach(), *(p.grad.clone() for p in mixer.parameters() if p.grad is not None)])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=0, atol=1e-10)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_code_gives_what_eager_gives(mixer: Mixer) -> None:
    if isinstance(mixer, GatedDeltaNet):
        pytest.skip("minutes of a C++ compiler; its code for GPUs: tests/gpu/test_gpu_compiled.py")
    mixer.double()
    x = torch.randn(2, LENGTH, WIDTH).double()
    with torch.no_grad():
        compiled = torch.compile(mixer, fullgraph=True)(x, NO_TURNS)
        torch.testing.assert_close(compiled, mixer(x, NO_TURNS), rtol=0, atol=1e-10)
