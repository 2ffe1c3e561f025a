"""Scaled rotary positions: by hand, against transformers, and in the models that read them."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo import TINY, decoder, tiny

from sisa_scale.config.rope import RopeConfig, RopeScaling
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.mixers.head_norm import HeadNorm
from sisa_scale.models.mixers.rotary import frequencies, interpolated_pairs, position_angles, position_cos_sin, rotate

CPU = torch.device("cpu")
WITH_POSITIONS = [name for name in TINY if not name.startswith(("mamba", "gated"))]


def scaling(kind: str, factor: float = 4.0, original: int = 2048, **more: Any) -> RopeScaling:
    return RopeConfig(scaling=kind, factor=factor, original_length_tokens=original, **more).resolve(8192, 2048)  # type: ignore[arg-type]


def of(width: int, chosen: RopeScaling | None, base: float = 10000.0) -> Tensor:
    return frequencies(width, base, chosen, CPU)


def test_unscaled_frequencies_are_powers_of_the_base() -> None:
    expected = torch.tensor([1.0, 0.1, 0.01, 0.001])
    torch.testing.assert_close(of(8, None), expected)
    assert torch.equal(of(8, None), of(8, RopeConfig(scaling="none").resolve(8192, 2048)))


def test_linear_divides_every_frequency() -> None:
    torch.testing.assert_close(of(8, scaling("linear")), torch.tensor([0.25, 0.025, 0.0025, 0.00025]))


def test_ntk_keeps_the_fastest_pair_and_divides_the_slowest_by_the_factor() -> None:
    # With factor 1000 and 8 channels the base becomes 10^4 x 1000^(8/6) = 10^8.
    torch.testing.assert_close(of(8, scaling("ntk", 1000.0)), torch.tensor([1.0, 1e-2, 1e-4, 1e-6]))
    for width, factor in ((64, 4.0), (128, 2.5)):
        scaled, own = of(width, scaling("ntk", factor)), of(width, None)
        assert scaled[0] == own[0]
        assert (own[-1] / scaled[-1]).item() == pytest.approx(factor, rel=1e-5)
    assert of(2, scaling("ntk")).tolist() == [1.0]  # one pair, no base


def test_yarn_goes_over_between_the_two_numbers_of_turns() -> None:
    chosen = scaling("yarn", 4.0, 2048)
    # 64 ln(2048 / (2 pi 32)) / (2 ln 10^4) = 8.06 and, with one turn, 20.10: from pair 8 to pair 21.
    assert interpolated_pairs(64, 10000.0, chosen) == (8, 21)
    ratio = of(64, None) / of(64, chosen)
    torch.testing.assert_close(ratio[:9], torch.ones(9))
    torch.testing.assert_close(ratio[21:], torch.full((11,), 4.0))
    # Halfway but one, pair 15 of 8..21: (1 - 7/13) + 7/13 / 4 of its frequency.
    assert ratio[15].item() == pytest.approx(1 / (6 / 13 + 7 / 13 / 4), rel=1e-5)
    assert chosen.attention_factor == pytest.approx(0.1 * math.log(4) + 1)


def test_yarn_at_short_lengths_and_narrow_heads_is_defined() -> None:
    for original, width in ((4, 16), (7, 2), (64, 4), (10**6, 64)):
        scaled = of(width, scaling("yarn", 4.0, original))
        assert scaled.isfinite().all() and (scaled <= of(width, None)).all() and (scaled * 4 >= of(width, None)).all()


@pytest.mark.parametrize("width", [64, 96, 128])
@pytest.mark.parametrize("factor", [2.0, 8.0, 32.0])
@pytest.mark.parametrize("base", [10000.0, 500000.0])
@pytest.mark.parametrize("kind", ["linear", "ntk", "yarn"])
def test_scaling_is_that_of_transformers(kind: str, base: float, factor: float, width: int) -> None:
    rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
    llama = pytest.importorskip("transformers.models.llama.configuration_llama").LlamaConfig
    original = 4096
    # Its dynamic scaling with factor 1 is the static formula for the sequence length it is asked about.
    own = {"linear": ("linear", factor), "ntk": ("dynamic", 1.0), "yarn": ("yarn", factor)}[kind]
    rope = {"rope_type": own[0], "factor": own[1], "rope_theta": base}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = original
    config = llama(
        hidden_size=4 * width,
        num_attention_heads=4,
        max_position_embeddings=original if kind == "ntk" else int(factor * original),
        rope_parameters=rope,
    )
    expected, expected_factor = rope_utils.ROPE_INIT_FUNCTIONS[own[0]](config, CPU, seq_len=int(factor * original))
    chosen = RopeConfig(scaling=kind).resolve(int(factor * original), original)  # type: ignore[arg-type]
    torch.testing.assert_close(of(width, chosen, base), expected, rtol=1e-5, atol=0)
    assert chosen.attention_factor == pytest.approx(expected_factor)


def longer(name: str, kind: str, **rope: Any) -> Decoder:
    """The same weights, four times as long."""
    config = tiny(name)
    fields = {field: getattr(config, field) for field in config.__dataclass_fields__}
    has_positions = name in WITH_POSITIONS
    fields |= {"max_length_tokens": 1024, "trained_length_tokens": 256}
    fields |= {"rope": RopeConfig(scaling=kind, **rope) if has_positions else None}  # type: ignore[arg-type]
    extended = type(config)(**fields)
    assert list(extended.violations()) == []
    return decoder(extended).double().eval()


def logits(model: Decoder, tokens_BL: Tensor) -> Tensor:
    return model.head.logits(model.hidden(tokens_BL))


@pytest.mark.parametrize("name", TINY)
def test_a_longer_length_without_scaling_leaves_the_function_as_it_is(name: str) -> None:
    tokens = torch.randint(0, 100, (2, 256))
    trained, extended = decoder(tiny(name)).double().eval(), longer(name, "none")
    for model in (trained, extended):
        _decay_fast(model)
    torch.testing.assert_close(logits(extended, tokens), logits(trained, tokens), rtol=0, atol=1e-9)


def _decay_fast(model: Decoder) -> None:
    """Bring SISA's decay near its bound, where another bound would show."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("decay_bias"):
                parameter.fill_(0.0)


@pytest.mark.parametrize("name", TINY)
def test_beyond_the_trained_length_the_past_stays_and_decoding_is_exact(name: str) -> None:
    tokens = torch.randint(0, 100, (1, 600))
    model = longer(name, "yarn")
    _decay_fast(model)
    whole = logits(model, tokens)
    assert whole.isfinite().all()
    torch.testing.assert_close(logits(model, tokens[:, :300]), whole[:, :300], rtol=0, atol=1e-9)
    cache = model.new_cache(1)
    for start, end in ((0, 280), (280, 599), (599, 600)):
        torch.testing.assert_close(model.extend(tokens[:, start:end], cache), whole[:, end - 1], rtol=0, atol=1e-8)
    torch.testing.assert_close(logits(model.float(), tokens).double(), whole, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="max_length_tokens 1024"):
        model.hidden(torch.zeros(1, 1025, dtype=torch.int64))


@pytest.mark.parametrize("name", WITH_POSITIONS)
@pytest.mark.parametrize("kind", ["linear", "ntk", "yarn"])
def test_scaling_reaches_every_mixer_with_positions(name: str, kind: str) -> None:
    tokens = torch.randint(0, 100, (1, 64))
    plain, scaled = (_large(longer(name, k)) for k in ("none", kind))
    assert (logits(plain, tokens) - logits(scaled, tokens)).abs().max() > 1e-4


def _large(model: Decoder) -> Decoder:
    """Make content matter: initial weights are small."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("qkv.weight", "project.weight")):
                parameter.mul_(10)
    return model


@pytest.mark.parametrize("name", [name for name in WITH_POSITIONS if "block" not in name])  # rotated whole, everywhere
def test_yarn_sharpens_content_and_nothing_else(name: str) -> None:
    """With factor 1 frequencies stay: the attention factor alone acts, as larger content queries and keys would."""
    tokens, factor = torch.randint(0, 100, (1, 64)), 2.0  # exact in the float32 of the turns
    sharpened = _large(longer(name, "yarn", factor=1.0, attention_factor=factor))
    by_hand = _large(longer(name, "none"))
    before = logits(by_hand, tokens)
    with torch.no_grad():
        for module in by_hand.modules():
            if isinstance(module, HeadNorm) and module.has_content_norm:
                module.gain = nn.Parameter(torch.full((by_hand.config.head_width,), factor).double())
            for weight, heads, width, content in [] if by_hand.config.qk_norm else _query_and_key_rows(module):
                weight.view(heads, width, -1)[:, :content] *= factor
    torch.testing.assert_close(logits(sharpened, tokens), logits(by_hand, tokens), rtol=0, atol=1e-9)
    assert (logits(sharpened, tokens) - before).abs().max() > 1e-4


def _query_and_key_rows(module: Any) -> list[tuple[Tensor, int, int, int]]:
    """Rows of queries and keys in a mixer's projection: weight, heads, width of a head, its content channels."""
    match type(module).__name__:
        case "Attention":
            counts, width, weight = [module.num_heads, module.kv_heads], module.head_width, module.qkv.weight
        case "Sisa":
            counts = [module.num_heads, module.kv_heads]
            width, weight = module.head_width + module.d_s, module.project.weight
        case "Hymba":
            path = module.attention
            counts, width, weight = [path.num_heads, path.kv_heads], path.key_width, module.project.weight
            module = path
        case _:
            return []
    sizes = [count * width for count in counts]
    rows = weight[: sum(sizes)].split(sizes)
    return [(own, count, width, module.head_width) for own, count in zip(rows, counts, strict=True)]


def test_angles_are_positions_times_frequencies() -> None:
    chosen = scaling("linear", 2.0)
    angles = position_angles(torch.tensor([[0, 10], [3, 4]]), 4, 100.0, chosen)
    torch.testing.assert_close(angles[..., 0], torch.tensor([[0.0, 5.0], [1.5, 2.0]]))
    torch.testing.assert_close(angles[..., 1], torch.tensor([[0.0, 0.5], [0.15, 0.2]]))


def test_turns_are_cosines_and_sines_with_the_attention_factor() -> None:
    positions, chosen = torch.tensor([[0, 10], [3, 4]]), scaling("yarn", 4.0, 2048)
    angles = position_angles(positions, 4, 100.0, chosen)
    turns = position_cos_sin(positions, 4, 100.0, chosen)
    assert turns.shape == (2, 2, 2, 2)
    torch.testing.assert_close(turns[0], (0.1 * math.log(4) + 1) * angles.cos())
    torch.testing.assert_close(turns[1], (0.1 * math.log(4) + 1) * angles.sin())
    torch.testing.assert_close(position_cos_sin(positions, 4, 100.0).square().sum(0), torch.ones(2, 2, 2))


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=4, max_size=4), st.floats(-7, 7), st.floats(-7, 7))
def test_a_rotation_turns_the_halves_and_keeps_the_length(x: list[float], first: float, second: float) -> None:
    angles = torch.tensor([first, second], dtype=torch.float64)
    vector = torch.tensor(x, dtype=torch.float64)
    turned = rotate(vector, angles.cos(), angles.sin())
    torch.testing.assert_close(turned.norm(), vector.norm())
    expected = torch.complex(vector[:2], vector[2:]) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned, torch.cat((expected.real, expected.imag)))


def test_position_angles() -> None:
    angles = position_angles(torch.arange(100), 8, 10000.0)
    assert angles.shape == (100, 4)
    assert angles.dtype == torch.float32
    for position in (0, 1, 99):
        expected = [position * 10000.0 ** (-i / 4) for i in range(4)]
        assert angles[position].tolist() == pytest.approx(expected)
