"""Hymba's mixer against its equations, the published counts, and what its window, its cache and its causality say."""

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad, silu, softplus

from sisa_scale.config.mixers.hymba import HymbaConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.mixers.hymba import Hymba
from sisa_scale.models.mixers.local_attention import LocalAttention

WIDTH, HEADS, LENGTH, WINDOW, META = 16, 4, 37, 5, 3
SMALL = {"state_width": 6, "head_width": 8, "chunk_tokens": 8}
ANGLES = torch.outer(torch.arange(LENGTH), 10000.0 ** -torch.tensor([0.0, 0.5]))  # of the 2 pairs of a head
TURNS = torch.stack((ANGLES.cos(), ANGLES.sin()))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors are tiny: threads would wait for one another most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(*, window: int = WINDOW, kv: int | None = 2, meta: int = META, is_global: bool = False) -> Hymba:
    """A small mixer whose every weight is large enough to matter."""
    layers = "first_middle_last" if window else "all"
    config = HymbaConfig(
        num_kv_heads=kv,
        window_tokens=window,
        global_layers=layers,
        num_meta_tokens=meta,
        **SMALL,  # type: ignore[arg-type]
    )
    assert not list(config.violations())
    mixer = Hymba(around(config, WIDTH, HEADS), "math", layer=0 if is_global else 1)
    mixer.initialise(0.5, torch.Generator().manual_seed(1))
    mixer.ssm.dt_bias.data.add_(3.0)
    return mixer


def around(config: HymbaConfig, d_model: int, num_heads: int, **settings: Any) -> ModelConfig:
    """A model whose layers 0, 2 and 4 are global where a window leaves others local."""
    sizes = {"num_layers": 5, "d_ff": 0, "vocab_size": 10, "max_length_tokens": 64}
    return ModelConfig(kind="hymba", d_model=d_model, num_heads=num_heads, hymba=config, **sizes, **settings)


@pytest.fixture(params=["local", "global", "every head has keys"])
def mixer(request: pytest.FixtureRequest) -> Hymba:
    return build(is_global=request.param == "global", kv=None if "every" in request.param else 2)


def attention_reference(mixer: Hymba, qkv: Tensor, window: int | None) -> Tensor:
    """Softmax over the visible tokens as loops over heads and queries; rotations as complex products."""
    batch, length, _ = qkv.shape
    groups, k, j = mixer.config.kv_heads(HEADS), WIDTH // HEADS, mixer.config.expand * WIDTH // HEADS
    q, keys, values = qkv.tensor_split((HEADS * k, (HEADS + groups) * k), dim=-1)

    def turned(x: Tensor) -> Tensor:
        pairs = torch.complex(x[..., : k // 2].contiguous(), x[..., k // 2 :].contiguous())
        pairs = pairs * torch.exp(1j * ANGLES[:length].to(x.dtype))
        return torch.cat((pairs.real, pairs.imag), -1)

    out = qkv.new_zeros(batch, length, HEADS * j)
    for head in range(HEADS):
        group = head // (HEADS // groups)
        own_q = turned(q[..., head * k : (head + 1) * k])
        own_k = turned(keys[..., group * k : (group + 1) * k])
        for i in range(length):
            seen = [s for s in range(i + 1) if window is None or i - s < window or s < mixer.config.num_meta_tokens]
            weights = torch.softmax(torch.einsum("bk,bsk->bs", own_q[:, i], own_k[:, seen]) / k**0.5, -1)
            own_v = values[:, seen, group * j : (group + 1) * j]
            out[:, i, head * j : (head + 1) * j] = torch.einsum("bs,bsj->bj", weights, own_v)
    return out


def ssm_reference(mixer: Hymba, projected: Tensor) -> Tensor:
    """The recurrence as a loop over tokens, gated."""
    p, config = {name: value.detach() for name, value in mixer.ssm.named_parameters()}, mixer.config
    (batch, length, _), n, inner = projected.shape, config.state_width, config.expand * WIDTH
    heads = inner // config.head_width
    z, channels, dt = projected.tensor_split((inner, 2 * inner + 2 * n), dim=-1)
    kernel = p["conv.weight"].T[:, None]
    channels = pad(channels.transpose(1, 2), (config.conv_kernel - 1, 0))
    mixed = silu(conv1d(channels, kernel, p["conv.bias"], groups=len(kernel))).transpose(1, 2)
    values, keys, queries = mixed.tensor_split((inner, inner + n), dim=-1)
    values = values.reshape(batch, length, heads, -1)
    delta = softplus(dt + p["dt_bias"])
    h, ys = torch.zeros(batch, heads, n, config.head_width, dtype=projected.dtype), []
    for t in range(length):
        decay = torch.exp(-p["a_log"].exp() * delta[:, t])
        update = torch.einsum("bh,bn,bhp->bhnp", delta[:, t], keys[:, t], values[:, t])
        h = decay[..., None, None] * h + update
        ys.append(torch.einsum("bn,bhnp->bhp", queries[:, t], h) + p["skip"][:, None] * values[:, t])
    return torch.stack(ys, 1).flatten(2) * silu(z)


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def row_turns(is_token: Tensor) -> Tensor:
    return TURNS[:, (is_token.cumsum(1) - 1).clamp(min=0)]


def extend_in_parts(mixer: Hymba, x: Tensor, cuts: list[int], is_token: Tensor | None = None) -> Tensor:
    cache = mixer.new_cache(len(x), x.device, x.dtype)
    turns = row_turns(torch.ones(x.shape[:2], dtype=torch.bool) if is_token is None else is_token)
    parts = []
    for start, end in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        mask = None if is_token is None else is_token[:, start:end]
        parts.append(mixer.extend(x[:, start:end], cache, turns[:, :, start:end], mask))
    return torch.cat(parts, 1)


SIZES = {512: (8, 6), 768: (12, 12), 1024: (16, 24)}  # d_model: heads, layers
COUNTS = [
    (512, 4, 2, 16, 2_063_568, 1376, 50_876_640),
    (512, 1, 2, 16, 2_653_392, 992, 50_876_640),
    (512, 4, 2, 64, 2_113_200, 1344, 50_879_520),
    (512, 1, 1, 64, 1_646_744, 1664, 51_029_904),
    (768, 4, 2, 16, 4_625_128, 2080, 151_739_616),
    (768, 1, 2, 16, 5_952_232, 1504, 151_739_616),
    (768, 4, 2, 64, 4_699_336, 2048, 151_745_376),
    (768, 1, 1, 64, 3_652_516, 2496, 151_569_840),
    (1024, 4, 2, 16, 8_206_592, 1632, 368_947_200),
    (1024, 1, 2, 16, 10_565_888, 864, 368_947_200),
    (1024, 4, 2, 64, 8_305_376, 1600, 368_958_720),
    (1024, 1, 1, 64, 6_446_768, 2208, 369_178_752),
]


@pytest.mark.parametrize(("d_model", "sharing", "expand", "n", "count", "d_ff", "total"), COUNTS)
def test_counts(d_model: int, sharing: int, expand: int, n: int, count: int, d_ff: int, total: int) -> None:
    heads, layers = SIZES[d_model]
    config = HymbaConfig(num_kv_heads=heads // sharing, state_width=n, expand=expand, num_meta_tokens=128)
    with torch.device("meta"):
        mixer = Hymba(around(config, d_model, heads), "math", layer=0)
    matrices = sum(p.numel() for p in mixer.parameters() if p.dim() >= 2)
    vectors = sum(p.numel() for p in mixer.parameters() if p.dim() < 2)
    assert matrices + vectors == count
    assert config.layer_parameters(d_model, heads) == (matrices, vectors)
    block = count + 3 * d_model * d_ff + 2 * d_model
    assert 50277 * d_model + layers * block + d_model + config.meta_parameters(d_model) == total


def test_only_matrices_and_the_convolution_have_two_dimensions() -> None:
    decayed = {name for name, p in build().named_parameters() if p.dim() >= 2}
    assert decayed == {"project.weight", "ssm.conv.weight", "out.weight"}


@pytest.mark.parametrize("length", [1, WINDOW + META, WINDOW + META + 1, LENGTH])
def test_the_mixer_is_its_equations(mixer: Hymba, length: int) -> None:
    mixer.double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, length, WIDTH).double()
    projected = x @ mixer.project.weight.T
    qkv, rest = projected.split(mixer.project.widths, dim=-1)
    attention = attention_reference(mixer, qkv, mixer.attention.window_tokens or None)
    ssm = ssm_reference(mixer, rest)
    turns = torch.stack((ANGLES[:length].double().cos(), ANGLES[:length].double().sin()))
    torch.testing.assert_close(mixer.attention(qkv, turns), attention, rtol=0, atol=1e-10)
    torch.testing.assert_close(mixer.ssm(rest), ssm, rtol=0, atol=1e-10)
    joined = (normed(attention, mixer.attention_norm.weight) + normed(ssm, mixer.ssm_norm.weight)) / 2
    torch.testing.assert_close(mixer(x, turns), joined @ mixer.out.weight.T, rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", ["flash", "flash_padded"])
def test_kernels_that_want_equal_widths_get_them(backend: str) -> None:
    exact = build(is_global=True)
    other = LocalAttention(around(exact.config, WIDTH, HEADS), backend, layer=0)
    qkv = torch.randn(2, LENGTH, exact.attention.channels)
    torch.testing.assert_close(other(qkv, TURNS), exact.attention(qkv, TURNS))


@pytest.mark.parametrize("query", [META, WINDOW, WINDOW + META, 20, LENGTH - 1])
def test_local_attention_sees_the_window_and_the_first_tokens_and_nothing_else(query: int) -> None:
    mixer = build()
    mixer.ssm_norm.weight.data.zero_()  # the other path has no window
    x = torch.randn(2, LENGTH, WIDTH, requires_grad=True)
    out = mixer(x, TURNS)[:, query]
    (gradient,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), x)
    size = gradient.abs().amax((0, 2))
    position = torch.arange(LENGTH)
    is_seen = (position <= query) & ((position > query - WINDOW) | (position < META))
    assert size[is_seen].min() > 1e-6
    assert (size[~is_seen] == 0).all()


def test_global_layers_see_everything() -> None:
    mixer = build(is_global=True)
    mixer.ssm_norm.weight.data.zero_()
    x = torch.randn(1, LENGTH, WIDTH, requires_grad=True)
    out = mixer(x, TURNS)[:, -1]
    (gradient,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), x)
    assert gradient.abs().amax((0, 2)).min() > 0


@pytest.mark.parametrize("cut", [1, 5, 8, 9, 20, LENGTH - 1])
def test_no_gradient_comes_from_later_inputs(mixer: Hymba, cut: int) -> None:
    x = torch.randn(2, LENGTH, WIDTH, requires_grad=True)
    out = mixer(x, TURNS)[:, :cut]
    (gradient,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), x)
    assert gradient[:, :cut].abs().amax((0, 2)).min() > 1e-5
    assert (gradient[:, cut:] == 0).all()


@pytest.mark.parametrize("cut", [1, 7, 9, 20])
def test_a_prefix_is_read_as_it_is_alone(mixer: Hymba, cut: int) -> None:
    mixer.double()
    x = torch.randn(2, LENGTH, WIDTH).double()
    whole = mixer(x, TURNS)
    torch.testing.assert_close(mixer(x[:, :cut], TURNS[:, :cut]), whole[:, :cut], rtol=0, atol=1e-10)
    other = torch.cat((x[:, :cut], torch.randn_like(x[:, cut:])), 1)
    assert torch.equal(mixer(other, TURNS)[:, :cut], whole[:, :cut])


@pytest.mark.parametrize("trial", range(6))
def test_any_split_of_a_sequence_gives_the_whole(mixer: Hymba, trial: int) -> None:
    mixer.double()
    x = torch.randn(2, LENGTH, WIDTH).double()
    cuts = list(range(1, LENGTH)) if trial == 0 else sorted(random.Random(trial).sample(range(1, LENGTH), trial - 1))
    torch.testing.assert_close(extend_in_parts(mixer, x, cuts), mixer(x, TURNS), rtol=0, atol=1e-10)


@pytest.mark.parametrize("cuts", [[], [3], [9, 10], [20, 21, 22], list(range(1, LENGTH))])
def test_left_padding_has_no_influence(mixer: Hymba, cuts: list[int]) -> None:
    mixer.double()
    pads = (0, 1, 9, 20, LENGTH - 1)
    x = 100 * torch.randn(len(pads), LENGTH, WIDTH).double()
    is_token = torch.arange(LENGTH) >= torch.tensor(pads)[:, None]
    x[is_token] /= 100
    y = extend_in_parts(mixer, x, cuts, is_token)
    assert y.isfinite().all()
    for row, start in enumerate(pads):
        alone = mixer(x[row : row + 1, start:], TURNS[:, : LENGTH - start])[0]
        torch.testing.assert_close(y[row, start:], alone, rtol=0, atol=1e-10)


def test_the_cache_of_a_local_layer_stays_short() -> None:
    mixer = build()
    cache = mixer.new_cache(2, torch.device("cpu"), torch.float32)
    for t in range(LENGTH):
        mixer.extend(torch.randn(2, 1, WIDTH), cache, TURNS[:, None, t : t + 1])
    assert cache.attention.keys_BSGK.shape[1] <= 2 * (WINDOW + META)
    assert cache.attention.position_BS[0, :META].tolist() == list(range(META))
    assert cache.attention.num_tokens_B.tolist() == [LENGTH, LENGTH]


def test_every_parameter_moves(mixer: Hymba) -> None:
    optimizer = torch.optim.AdamW(mixer.parameters(), lr=1e-3, weight_decay=0.0)
    before = {name: p.detach().clone() for name, p in mixer.named_parameters()}
    for _ in range(20):
        x = torch.randn(2, LENGTH, WIDTH)
        loss = (mixer(x, TURNS) - x.roll(1, 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Adam moves a weight by about the learning rate a step, whatever the size of its gradient.
    assert min((p.detach() - before[name]).abs().min().item() for name, p in mixer.named_parameters()) > 0
    assert all(p.isfinite().all() for p in mixer.parameters())


def test_bf16_autocast_is_close_to_float64(mixer: Hymba) -> None:
    x = torch.randn(2, LENGTH, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        y = mixer(x, TURNS)
        decoded = extend_in_parts(mixer, x, [10, 11, 12])
    y.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixer.parameters())
    exact = copy.deepcopy(mixer).double()(x.double(), TURNS)
    assert y.dtype == decoded.dtype == torch.bfloat16
    for result in (y, decoded):
        assert ((result.double() - exact).norm() / exact.norm()).item() < 0.03


def test_one_graph_holds_forward_and_backward() -> None:
    mixer = build().double()
    x = torch.randn(2, LENGTH, WIDTH).double()
    results = []
    for run in (mixer, torch.compile(mixer, fullgraph=True, backend="aot_eager")):
        mixer.zero_grad()
        y = run(x, TURNS)
        y.square().mean().backward()
        results.append([y.detach(), *(p.grad.clone() for p in mixer.parameters() if p.grad is not None)])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=0, atol=1e-10)


def test_initial_values() -> None:
    mixer = Hymba(around(HymbaConfig(), 256, 4), "math", layer=0)
    mixer.initialise(0.02, torch.Generator().manual_seed(0))
    assert all(p.isfinite().all() for p in mixer.parameters())
    for linear in (mixer.project, mixer.out):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
    for ones in (mixer.attention_norm.weight, mixer.ssm_norm.weight, mixer.ssm.skip):
        assert (ones == 1).all()
    delta, rate = softplus(mixer.ssm.dt_bias), mixer.ssm.a_log.exp()
    assert delta.min() >= 1e-3 * 0.999 and delta.max() <= 1e-1 * 1.001
    assert rate.min() >= 1 and rate.max() <= 16.001


def test_three_layers_are_global() -> None:
    config = HymbaConfig(window_tokens=1024, global_layers="first_middle_last")
    assert [layer for layer in range(32) if config.is_global(layer, 32)] == [0, 15, 31]
    assert [config.is_global(layer, 3) for layer in range(3)] == [True] * 3
    assert all(HymbaConfig().is_global(layer, 6) for layer in range(6))


def test_rules_of_the_section() -> None:
    assert not list(HymbaConfig().violations())
    keys = [v.key for v in HymbaConfig(dt_min=0.2, a_init=(3.0, 1.0), window_tokens=8).violations()]
    assert keys == ["dt_min", "a_init", "window_tokens"]
    assert [v.key for v in HymbaConfig(global_layers="first_middle_last").violations()] == ["window_tokens"]


def test_heads_must_be_whole() -> None:
    with pytest.raises(ValueError, match=r"num_kv_heads 3: must divide num_heads 8\. The nearest is 2"):
        Hymba(around(HymbaConfig(num_kv_heads=3), 512, 8), "math", layer=0)
    with pytest.raises(ValueError, match=r"head_width 64: must divide expand x d_model = 96"):
        Hymba(around(HymbaConfig(), 48, 8), "math", layer=0)
