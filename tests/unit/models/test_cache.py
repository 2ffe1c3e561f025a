"""Decoding with a cache gives what the forward pass gives, however the tokens are split."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from sisa_reference import CONTROLS, LENGTH, UNBOUNDED, WIDTH, build, turns
from torch import Tensor

from sisa_scale.config.model import ModelConfig
from sisa_scale.models.cache import AnchoredCache, KeyValueCache
from sisa_scale.models.mixers.attention import Attention
from sisa_scale.models.mixers.sisa import Sisa

SPLITS = {"at once": [LENGTH], "by token": [1] * LENGTH, "mixed": [7, 1, 1, 30, 1, 16, 40]}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_and_seeded() -> Iterator[None]:
    """Steps of one token are too small to share among threads, which on a busy machine wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


ATTENTION: dict[str, dict[str, Any]] = {
    "attention": {},
    "attention grouped in a window": {"num_kv_heads": 1, "window_tokens": 11, "output_gate": "per_channel"},
}


def attention(name: str) -> Attention:
    sizes: dict[str, Any] = {"num_layers": 1, "d_model": WIDTH, "num_heads": 2, "d_ff": 8, "vocab_size": 8}
    sizes |= ATTENTION[name]
    mixer = Attention(ModelConfig(kind="transformer", max_length_tokens=LENGTH, **sizes), "math")
    mixer.initialise(0.2, torch.Generator().manual_seed(0))
    return mixer


def mixer_of(name: str, nats: float) -> Sisa | Attention:
    return attention(name) if name in ATTENTION else build(nats, **CONTROLS[name])


def extend(
    mixer: Sisa | Attention, x: Tensor, split: list[int], padding: list[int] | None = None, dtype: Any = torch.float32
) -> tuple[Tensor, KeyValueCache]:
    """Feed x in pieces; with padding, that many places on the left of each row hold none of its tokens."""
    cache: Any = mixer.new_cache(x.shape[0], CPU, dtype)
    start = torch.tensor(padding or [0] * x.shape[0])
    position = torch.arange(x.shape[1]) - start[:, None]
    is_token = position >= 0
    turned = turns(x.shape[1])[:, position.clamp(min=0)]
    out = [
        mixer.extend(a, cache, b, c if padding else None)
        for a, b, c in zip(x.split(split, 1), turned.split(split, 2), is_token.split(split, 1), strict=True)
    ]
    assert cache.length <= (2 * mixer.window_tokens + max(split) if mixer.window_tokens else x.shape[1])
    return torch.cat(out, dim=1), cache


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", [*ATTENTION, *CONTROLS])
def test_extending_is_the_forward_pass(name: str, split: str) -> None:
    x = torch.randn(2, LENGTH, WIDTH)
    for nats in (20.0, 79.0, 400.0) if name in UNBOUNDED else (20.0, 79.0):
        if name in ATTENTION and nats > 20:
            continue
        mixer = mixer_of(name, nats)
        with torch.no_grad():
            # The factors of single_call reach e^40; float64 takes their rounding out of the comparison.
            wanted = mixer.double()(x.double(), turns(dtype=torch.float64))
        out, cache = extend(mixer.float(), x, SPLITS[split])
        assert (out - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        if isinstance(cache, AnchoredCache):
            assert cache.decay_BG.max() <= 30


def test_the_anchor_moves_at_least_twice() -> None:
    for form, nats in (("single_call", 79.0), ("query_blocks", 400.0)):
        mixer, x = build(nats, form=form), torch.randn(2, LENGTH, WIDTH)
        cache = mixer.new_cache(2, CPU, torch.float32)
        moves, before = torch.zeros_like(cache.decay_BG), cache.decay_BG
        for t in range(LENGTH):
            mixer.extend(x[:, t : t + 1], cache, turns()[:, None, t : t + 1])
            moves, before = moves + (cache.decay_BG < before), cache.decay_BG
        assert moves.min() >= 2


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", [*ATTENTION, *CONTROLS])
def test_half_precision_is_as_close_as_the_forward_pass(name: str, split: str) -> None:
    mixer, x = mixer_of(name, 79.0), torch.randn(2, LENGTH, WIDTH)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = mixer(x, turns()).float()
        out, _ = extend(mixer, x, SPLITS[split], dtype=torch.bfloat16)
    assert out.isfinite().all()
    error = (out.float() - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
    assert error <= 1e-2


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", [*ATTENTION, *CONTROLS])
def test_left_padding_has_no_influence(name: str, split: str) -> None:
    mixer, padding = mixer_of(name, 79.0), [0, 20, 95]
    x = torch.randn(3, LENGTH, WIDTH)
    out, _ = extend(mixer, x, SPLITS[split], padding)
    assert out.isfinite().all()
    with torch.no_grad():
        for row, start in enumerate(padding):
            alone = mixer(x[row : row + 1, start:], turns(LENGTH - start))
            torch.testing.assert_close(out[row : row + 1, start:], alone, rtol=0, atol=2e-5 * alone.abs().max())
    other = torch.where((torch.arange(LENGTH) < torch.tensor(padding)[:, None])[..., None], torch.randn_like(x), x)
    again, _ = extend(mixer, other, SPLITS[split], padding)
    for row, start in enumerate(padding):
        torch.testing.assert_close(again[row, start:], out[row, start:], rtol=0, atol=1e-5 * out.abs().max())


@pytest.mark.parametrize("seed_", range(5))
def test_any_split_gives_the_same(seed_: int) -> None:
    torch.manual_seed(seed_)
    cuts = sorted({0, LENGTH, *torch.randint(1, LENGTH, (6,)).tolist()})
    split = [b - a for a, b in pairwise(cuts)]
    mixer, x = build(300.0, form="query_blocks"), torch.randn(2, LENGTH, WIDTH)
    once, _ = extend(mixer, x, [LENGTH])
    torch.testing.assert_close(extend(mixer, x, split)[0], once, rtol=0, atol=1e-5 * once.abs().max())


def test_one_token_may_forget_everything() -> None:
    mixer, x = build(20.0, form="query_blocks"), torch.randn(1, LENGTH, WIDTH)
    mixer.decay_bias.data.fill_(200.0)  # every token forgets 200 nats: only itself is left in the importance term
    out, cache = extend(mixer, x, [50, 1, 45])
    assert out.isfinite().all()
    assert torch.equal(cache.decay_BG, torch.zeros(1, 2).double())


def test_the_buffers_double() -> None:
    cache = KeyValueCache(1, 2, 4, 4, CPU, torch.float32)
    capacities = set()
    for _ in range(200):
        keys, values, is_visible = cache.append(torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4), None)
        capacities.add(cache._keys.shape[1])
    assert capacities == {64, 128, 256}
    assert keys.shape == values.shape == (1, 200, 2, 4)
    assert is_visible is None


def test_a_query_is_told_what_it_sees_when_that_is_not_all() -> None:
    whole, padded = (KeyValueCache(1, 2, 4, 4, CPU, torch.float32) for _ in range(2))
    three, one = torch.ones(1, 3, 2, 4), torch.ones(1, 1, 2, 4)
    _, _, is_visible = whole.append(three, three, None)
    assert is_visible is not None
    assert is_visible.tolist() == [[[True, False, False], [True, True, False], [True, True, True]]]
    assert whole.append(one, one, None)[2] is None
    padded.append(three, three, torch.tensor([[False, True, True]]))
    _, _, is_visible = padded.append(one, one, None)
    assert is_visible is not None
    assert is_visible.tolist() == [[[False, True, True, True]]]
