"""SISA in Hymba's attention heads: against its equation, against SISA itself, and under window, cache and documents."""

import random
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus
from zoo import decoder, tiny

from sisa_scale.config.mixers.hymba import HymbaConfig
from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.config.rope import RopeConfig
from sisa_scale.models.mixers import local_attention
from sisa_scale.models.mixers.hymba import Hymba
from sisa_scale.models.mixers.local_sisa import LocalSisa
from sisa_scale.models.mixers.rotary import position_angles
from sisa_scale.models.mixers.sisa import Sisa

WIDTH, HEADS, GROUPS, D_S, LENGTH, WINDOW, META = 16, 4, 2, 6, 41, 6, 3
SIZES: dict[str, Any] = {"num_layers": 5, "d_model": WIDTH, "num_heads": HEADS, "d_ff": 0, "vocab_size": 10}
FORMS = ["single_call", "query_blocks"]
LAYERS = {"local": 1, "global": 0}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors are tiny: threads would wait for one another most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model_of(
    sisa: SisaConfig, *, kv: int | None = GROUPS, expand: int = 2, meta: int = META, **model: Any
) -> ModelConfig:
    hymba = HymbaConfig(
        attention="sisa", num_kv_heads=kv, expand=expand, window_tokens=WINDOW, global_layers="first_middle_last",
        num_meta_tokens=meta, state_width=6, head_width=8, chunk_tokens=8,
    )  # fmt: skip
    config = ModelConfig(kind="hymba", sisa=sisa, hymba=hymba, **{**SIZES, "max_length_tokens": 64, **model})
    assert list(config.violations()) == []
    return config


def build(layer: str = "local", form: str = "query_blocks", model: dict[str, Any] | None = None, **sisa: Any) -> Hymba:
    """A small mixer in float64 whose every weight is large enough to matter, and whose decay is."""
    section = SisaConfig(**{"d_s": D_S, "form": form, "block_tokens": 5, **sisa})
    mixer = Hymba(model_of(section, **(model or {})), "math", LAYERS[layer]).double()
    mixer.initialise(0.5, torch.Generator().manual_seed(1))
    for parameter in mixer.attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(2))
    return mixer


@pytest.fixture(params=[f"{layer} {form}" for layer in LAYERS for form in FORMS])
def mixer(request: pytest.FixtureRequest) -> Hymba:
    return build(*request.param.split())


def angles(length: int) -> Tensor:
    return position_angles(torch.arange(length), WIDTH // HEADS, 10000.0).double()


def turns(length: int) -> Tensor:
    return torch.stack((angles(length).cos(), angles(length).sin()))


def path_of(mixer: Hymba) -> LocalSisa:
    assert isinstance(mixer.attention, LocalSisa)
    return mixer.attention


def reference(mixer: Hymba, projected: Tensor, document: Tensor | None = None) -> Tensor:
    """The equation as loops over rows, heads and queries, with complex rotations."""
    path, (batch, length, _) = path_of(mixer), projected.shape
    config, d_h, d_v = path.config, WIDTH // HEADS, path.value_width
    groups, per_group = path.kv_heads, HEADS // path.kv_heads
    d_k = d_h + D_S
    sizes = (HEADS * d_k, groups * d_k, groups * d_v)
    q, k, v, rest = projected.tensor_split(torch.tensor(sizes).cumsum(0).tolist(), dim=-1)
    angle = angles(length)
    out = projected.new_zeros(batch, length, HEADS * d_v)
    for row in range(batch):
        for head in range(HEADS):
            g = head // per_group
            decay = torch.zeros(length, dtype=projected.dtype)
            if config.decay_kind == "data":
                decay = softplus(rest[row, :, g] + path.decay_bias[g])
                limit = path.decay_limit
                decay = decay if limit == float("inf") else limit * torch.tanh(decay / limit)
            first = groups * (config.decay_kind == "data") + g * (D_S // 2)
            phase = rest[row, :, first : first + D_S // 2] if config.has_rotation else torch.zeros(length, D_S // 2)
            total, phase = decay.cumsum(0), phase.cumsum(0)

            def parts(x: Tensor, index: int, phase: Tensor = phase, row: int = row) -> tuple[Tensor, Tensor]:
                content, importance = x[row, :, index * d_k : (index + 1) * d_k].tensor_split([d_h], dim=-1)
                if path.query_norm.has_content_norm:
                    content = content / (content.square().mean(-1, keepdim=True) + 1e-6).sqrt()
                if config.normalize_importance:
                    importance = importance / (importance.square().mean(-1, keepdim=True) + 1e-6).sqrt()
                content, importance = (torch.complex(*part.chunk(2, -1)) for part in (content, importance))
                return content * torch.exp(1j * angle), importance * torch.exp(1j * phase)

            q_content, q_importance = parts(q, head)
            k_content, k_importance = parts(k, g)
            weight = softplus(path.lambda_raw[head]) / (D_S**0.5 if config.logit_scale == "sqrt_d_s" else 1.0)
            for i in range(length):
                seen = [
                    j
                    for j in range(i + 1)
                    if (not path.window_tokens or i - j < path.window_tokens or j < META)
                    and (document is None or j < META or document[row, i] == document[row, j])
                ]
                content = (q_content[i] * k_content[seen].conj()).real.sum(-1) / d_h**0.5
                importance = (q_importance[i] * k_importance[seen].conj()).real.sum(-1)
                logits = content + weight * torch.exp(total[seen] - total[i]) * importance
                values = v[row, seen, g * d_v : (g + 1) * d_v]
                out[row, i, head * d_v : (head + 1) * d_v] = torch.softmax(logits, -1) @ values
    return out


def extend_in_parts(mixer: Hymba, x: Tensor, cuts: list[int], is_token: Tensor | None = None) -> Tensor:
    cache = mixer.new_cache(len(x), x.device, x.dtype)
    real = torch.ones(x.shape[:2], dtype=torch.bool) if is_token is None else is_token
    turned, parts = turns(x.shape[1])[:, (real.cumsum(1) - 1).clamp(min=0)], []
    for start, end in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        mask = None if is_token is None else is_token[:, start:end]
        parts.append(mixer.extend(x[:, start:end], cache, turned[:, :, start:end], mask))
    return torch.cat(parts, 1)


@pytest.mark.parametrize("length", [1, 5, 6, WINDOW + META + 1, LENGTH])
def test_the_path_is_its_equation(mixer: Hymba, length: int) -> None:
    projected = torch.randn(2, length, sum(path_of(mixer).widths)).double()
    torch.testing.assert_close(
        mixer.attention(projected, turns(length)), reference(mixer, projected), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize(
    "control", [{"decay_kind": "none"}, {"has_rotation": False}, {"logit_scale": "sqrt_d_s"}], ids=str
)
@pytest.mark.parametrize("layer", LAYERS)
def test_controls_take_their_part_away(layer: str, control: dict[str, Any]) -> None:
    mixer = build(layer, "auto", **control)
    projected = torch.randn(2, LENGTH, sum(path_of(mixer).widths)).double()
    torch.testing.assert_close(
        mixer.attention(projected, turns(LENGTH)), reference(mixer, projected), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layer", LAYERS)
def test_norms_are_of_heads_and_groups(layer: str, form: str) -> None:
    mixer = build(layer, form, {"qk_norm": True}, normalize_importance=True)
    projected = torch.randn(2, LENGTH, sum(path_of(mixer).widths)).double()
    torch.testing.assert_close(
        mixer.attention(projected, turns(LENGTH)), reference(mixer, projected), rtol=0, atol=1e-10
    )
    x = torch.randn(2, LENGTH, WIDTH).double()
    whole = mixer(x, turns(LENGTH))
    torch.testing.assert_close(extend_in_parts(mixer, x, [7, 8, 30]), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_with_a_group_for_every_head_and_no_window_it_is_sisa(form: str) -> None:
    mixer = build("global", form, model={"kv": None, "expand": 1, "meta": 0})
    path = path_of(mixer)
    sisa = Sisa(ModelConfig(kind="sisa", sisa=path.config, max_length_tokens=64, **SIZES), "math").double()
    values = path.channels
    with torch.no_grad():
        sisa.project.weight.copy_(mixer.project.weight[:values])
        sisa.decay_bias.copy_(path.decay_bias)
        sisa.lambda_raw.copy_(path.lambda_raw)
        sisa.out.weight.copy_(torch.eye(WIDTH))
    x = torch.randn(2, LENGTH, WIDTH).double()
    projected = x @ mixer.project.weight[:values].T
    torch.testing.assert_close(mixer.attention(projected, turns(LENGTH)), sisa(x, turns(LENGTH)), rtol=0, atol=1e-10)


def test_both_forms_are_one_function_beyond_the_trained_length() -> None:
    longer = {"max_length_tokens": 640, "trained_length_tokens": 64, "rope": RopeConfig(scaling="none")}
    for layer in LAYERS:
        short, long = build(layer, "single_call"), build(layer, "single_call", model=longer)
        assert (path_of(short).form, path_of(long).form) == ("single_call", "query_blocks")
        assert path_of(long).decay_limit == path_of(short).decay_limit == 80 / (64 + META)
        x = torch.randn(2, LENGTH, WIDTH).double()
        torch.testing.assert_close(long(x, turns(LENGTH)), short(x, turns(LENGTH)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", ["flash", "flash_padded"])
@pytest.mark.parametrize("expand", [1, 3])  # keys of 10 channels, values of 4 and of 12
def test_kernels_that_want_equal_widths_get_them(backend: str, expand: int) -> None:
    exact = build("global", "single_call", model={"expand": expand})
    other = LocalSisa(model_of(path_of(exact).config, expand=expand), backend, 0).double()
    other.load_state_dict(exact.attention.state_dict())
    qkv = torch.randn(2, LENGTH, path_of(exact).channels).double()
    torch.testing.assert_close(other(qkv, turns(LENGTH)), exact.attention(qkv, turns(LENGTH)), rtol=0, atol=1e-10)


def test_documents_are_read_apart_but_for_the_first_tokens(mixer: Hymba) -> None:
    document = torch.tensor([[0] * 15 + [1] * 20 + [2] * 6, [0] * 41])
    projected = torch.randn(2, LENGTH, path_of(mixer).channels).double()
    apart = mixer.attention(projected, turns(LENGTH), document)
    torch.testing.assert_close(apart, reference(mixer, projected, document), rtol=0, atol=1e-10)
    assert not torch.allclose(apart[0, 15:], mixer.attention(projected, turns(LENGTH))[0, 15:])


@pytest.mark.parametrize("layer", LAYERS)
def test_documents_without_importance_are_read_apart_too(layer: str) -> None:
    mixer = build(layer)
    mixer.attention = local_attention.LocalAttention(model_of(path_of(mixer).config), "math", LAYERS[layer])
    document = torch.tensor([[0] * 15 + [1] * 26])
    qkv = torch.randn(1, LENGTH, mixer.attention.channels).double()
    together = mixer.attention(qkv, turns(LENGTH))
    apart = mixer.attention(qkv, turns(LENGTH), document)
    torch.testing.assert_close(apart[:, :15], together[:, :15], rtol=0, atol=1e-12)
    changed = qkv.clone()
    changed[:, META:15] = torch.randn_like(changed[:, META:15])
    assert torch.equal(mixer.attention(changed, turns(LENGTH), document)[:, 15:], apart[:, 15:])
    changed[:, :META] = torch.randn_like(changed[:, :META])
    assert not torch.equal(mixer.attention(changed, turns(LENGTH), document)[:, 15:], apart[:, 15:])


@pytest.mark.parametrize("cut", [1, 5, 8, 9, 20, LENGTH - 1])
def test_no_gradient_comes_from_later_inputs(mixer: Hymba, cut: int) -> None:
    x = torch.randn(2, LENGTH, WIDTH).double().requires_grad_()
    out = mixer(x, turns(LENGTH))[:, :cut]
    (gradient,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), x)
    assert gradient[:, :cut].abs().amax((0, 2)).min() > 1e-5
    assert (gradient[:, cut:] == 0).all()


@pytest.mark.parametrize("cut", [1, 7, 9, 20])
def test_a_prefix_is_read_as_it_is_alone(mixer: Hymba, cut: int) -> None:
    x = torch.randn(2, LENGTH, WIDTH).double()
    whole = mixer(x, turns(LENGTH))
    torch.testing.assert_close(mixer(x[:, :cut], turns(cut)), whole[:, :cut], rtol=0, atol=1e-10)


@pytest.mark.parametrize("trial", range(6))
def test_any_split_of_a_sequence_gives_the_whole(mixer: Hymba, trial: int) -> None:
    x = torch.randn(2, LENGTH, WIDTH).double()
    cuts = list(range(1, LENGTH)) if trial == 0 else sorted(random.Random(trial).sample(range(1, LENGTH), trial - 1))
    torch.testing.assert_close(extend_in_parts(mixer, x, cuts), mixer(x, turns(LENGTH)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("cuts", [[], [3], [20, 21, 22], list(range(1, LENGTH))], ids=len)
def test_left_padding_has_no_influence(mixer: Hymba, cuts: list[int]) -> None:
    pads = (0, 1, 9, 20, LENGTH - 1)
    x = 100 * torch.randn(len(pads), LENGTH, WIDTH).double()
    is_token = torch.arange(LENGTH) >= torch.tensor(pads)[:, None]
    x[is_token] /= 100
    y = extend_in_parts(mixer, x, cuts, is_token)
    assert y.isfinite().all()
    for row, start in enumerate(pads):
        alone = mixer(x[row : row + 1, start:], turns(LENGTH - start))[0]
        torch.testing.assert_close(y[row, start:], alone, rtol=0, atol=1e-10)


def test_decoding_is_exact_however_fast_a_head_decays() -> None:
    mixer = build("global")
    path_of(mixer).decay_bias.data.copy_(torch.tensor([9.0, -3.0]))  # 370 nats in all, and 2
    x = torch.randn(2, LENGTH, WIDTH).double()
    whole = mixer(x, turns(LENGTH))
    assert whole.isfinite().all()
    for cuts in ([], [20], list(range(1, LENGTH))):
        torch.testing.assert_close(extend_in_parts(mixer, x, cuts), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("nats", [0.01, 0.8, 8.0, 300.0])
@pytest.mark.parametrize("layer", LAYERS)
def test_forward_and_cache_are_the_equation_at_any_decay(layer: str, nats: float) -> None:
    mixer = build(layer)
    path = path_of(mixer)
    path.decay_bias.data.copy_(torch.tensor([nats, 2 * nats]).double().expm1().log().nan_to_num(posinf=nats))
    document = torch.tensor([[0] * 15 + [1] * 26] * 2)
    projected = torch.randn(2, LENGTH, path.channels).double()
    for read in (None, document):
        torch.testing.assert_close(
            path(projected, turns(LENGTH), read), reference(mixer, projected, read), rtol=0, atol=1e-10
        )
    x = torch.randn(2, LENGTH, WIDTH).double()
    for cuts in ([], [20, 33], list(range(1, LENGTH))):
        torch.testing.assert_close(extend_in_parts(mixer, x, cuts), mixer(x, turns(LENGTH)), rtol=0, atol=1e-10)


def test_the_cache_of_a_local_layer_stays_short() -> None:
    mixer = build("local")
    cache = mixer.new_cache(2, torch.device("cpu"), torch.float64)
    for t in range(LENGTH):
        mixer.extend(torch.randn(2, 1, WIDTH).double(), cache, turns(LENGTH)[:, None, t : t + 1])
    assert cache.attention.keys_BSGK.shape[1] <= 2 * (WINDOW + META)
    assert cache.attention.position_BS[0, :META].tolist() == list(range(META))


@pytest.mark.parametrize("form", FORMS)
def test_bf16_autocast_is_close_to_float64(form: str) -> None:
    exact = build("global", form)
    mixer = build("global", form).float()
    x = torch.randn(2, LENGTH, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        y = mixer(x, turns(LENGTH).float())
        cache = mixer.new_cache(2, x.device, torch.bfloat16)
        decoded = mixer.extend(x, cache, turns(LENGTH).float()[:, None])
    y.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixer.parameters())
    truth = exact(x.double(), turns(LENGTH))
    for result in (y, decoded):
        assert result.dtype == torch.bfloat16
        assert ((result.double() - truth).norm() / truth.norm()).item() < 0.04


@pytest.mark.parametrize("form", FORMS)
def test_one_graph_holds_forward_and_backward(form: str) -> None:
    mixer, results = build("local", form), []
    x, turned = torch.randn(2, 11, WIDTH).double(), turns(11)  # a window, two blocks and one token more
    for run in (mixer, torch.compile(mixer, fullgraph=True, backend="aot_eager")):
        mixer.zero_grad()
        y = run(x, turned)
        y.square().mean().backward()
        results.append([y.detach(), *(p.grad.clone() for p in mixer.parameters() if p.grad is not None)])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=0, atol=1e-10)


def test_initial_values() -> None:
    mixer = Hymba(model_of(SisaConfig(d_s=D_S), d_model=1024, kv=2), "math", 0)
    mixer.initialise(0.02, torch.Generator().manual_seed(0))
    path = path_of(mixer)
    assert (path.decay_bias == -5).all() and (path.lambda_raw == -1).all()
    phases = mixer.project.weight[path.channels - path.widths[-1] : path.channels]
    others = mixer.project.weight[: path.channels - path.widths[-1]]
    assert phases.shape[0] == 2 * D_S // 2
    assert phases.std().item() == pytest.approx(0.01, rel=0.03)
    assert others.std().item() == pytest.approx(0.02, rel=0.03)


def test_the_monitor_reads_these_layers() -> None:
    readings = decoder(tiny("hymba sisa")).monitor(torch.randint(0, 100, (2, 64)))
    assert len(readings) == 4
    for reading in readings:
        assert reading.half_life_tokens == pytest.approx(103, rel=0.3)
        assert reading.lambda_H == pytest.approx([0.31326] * 2, rel=1e-3)
    # About ln 2 / softplus(-5), more or less by the random weights of a layer.
    assert fmean(reading.half_life_tokens for reading in readings) == pytest.approx(103, rel=0.1)


def test_layers_make_a_mask_once() -> None:
    local_attention.visible.cache_clear()
    for _ in range(3):
        mixer = build("local", "single_call")
        mixer(torch.randn(2, LENGTH, WIDTH).double(), turns(LENGTH))
    assert local_attention.visible.cache_info().misses == 1


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ({"form": "published"}, "sisa.form"),
        ({"decay_kind": "alibi", "has_rotation": False}, "sisa.decay_kind"),
        ({"activation": "sigmoid"}, "sisa.activation"),
        ({"decay_range_nats": 100.0}, "sisa.decay_range_nats"),
    ],
)
def test_what_these_heads_do_not_have_is_refused(setting: dict[str, Any], key: str) -> None:
    sisa = SisaConfig(d_s=D_S, **setting)
    assert [v.key for v in HymbaConfig(attention="sisa").sisa_violations(sisa)] == [key]
    assert list(HymbaConfig().sisa_violations(sisa)) == []


def test_the_section_is_needed_and_only_where_it_is_read() -> None:
    def keys(hymba: HymbaConfig, sisa: SisaConfig | None) -> list[str]:
        config = ModelConfig(kind="hymba", hymba=hymba, sisa=sisa, max_length_tokens=64, **{**SIZES, "d_model": 64})
        return [v.key for v in config.violations()]

    assert keys(HymbaConfig(attention="sisa"), None) == ["sisa"]
    assert keys(HymbaConfig(), SisaConfig(d_s=8)) == ["sisa"]
    assert keys(HymbaConfig(attention="sisa"), SisaConfig(d_s=8)) == []
