"""Small SISA mixers with every form and control, and what they should return, in float64.

Logits are written as differences and rotations as complex numbers, unlike in the mixer.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.mixers.head_norm import HeadNorm
from sisa_scale.models.mixers.sisa import Sisa

LENGTH, WIDTH, HEADS = 96, 32, 2


def model(length: int = LENGTH, **settings: Any) -> ModelConfig:
    """Return a model with these settings, of section `sisa` or of its attention block."""
    names = ("qk_norm", "qk_norm_gain", "num_kv_heads", "window_tokens", "output_gate", "position")
    block = {name: settings.pop(name) for name in names if name in settings}
    section = SisaConfig(**{"d_s": 16, "block_tokens": 16, **settings})
    sizes: dict[str, Any] = {"num_layers": 1, "d_model": WIDTH, "num_heads": HEADS, "d_ff": 8, "vocab_size": 8}
    return ModelConfig(kind="sisa", max_length_tokens=length, sisa=section, **block, **sizes)


def build(nats: float = 20.0, length: int = LENGTH, backend: str = "math", **sisa: Any) -> Sisa:
    """Return a mixer whose every weight matters and whose heads decay by about so many nats over the length."""
    mixer = Sisa(model(length, **sisa), backend)
    mixer.initialise(0.02, torch.Generator().manual_seed(0))
    with torch.no_grad():
        mixer.project.weight.mul_(10)
        mixer.out.weight.mul_(50)
        if mixer.decay_bias is not None:
            parts(mixer, mixer.project.weight)[3].mul_(0.1)
            step = torch.tensor(nats / length).double()
            if mixer.decay_limit < math.inf:
                step = mixer.decay_limit * torch.atanh((step / mixer.decay_limit).clamp(max=0.999))
            mixer.decay_bias.copy_(torch.log(torch.expm1(step)))
        if mixer.lambda_raw is not None:
            mixer.lambda_raw.copy_(torch.linspace(-1, 1, HEADS))
        for start, norm in enumerate((mixer.query_norm, mixer.key_norm)):
            if norm.gain is not None:
                norm.gain.copy_(torch.linspace(start, 2, len(norm.gain)))
    return mixer


def parts(mixer: Sisa, x: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of queries, keys, values, decay, phase and gate in what has a row for each of their channels."""
    config, d_h, d_s = mixer.config, mixer.head_width, mixer.d_s
    num_phases = d_s // 2 if config.has_rotation else 0
    widths = [d_h + d_s, d_h, decays(mixer), num_phases]
    sizes = [HEADS * (d_h + d_s), *(mixer.kv_heads * width for width in widths)]
    return x.split([*sizes, len(x) - sum(sizes)])


def decays(mixer: Sisa) -> int:
    """Return the decays of a head."""
    kinds = {"data": 1, "forget_gate": 1, "channels": mixer.head_width}
    return kinds.get(mixer.config.decay_kind, 0)


def angles(length: int = LENGTH) -> Tensor:
    pairs = WIDTH // HEADS // 2
    return torch.arange(length)[:, None] * 10000.0 ** -(torch.arange(pairs) / pairs)


def turns(length: int = LENGTH, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return what mixers are given of the positions: cosines and sines, (2, L, K / 2)."""
    angle = angles(length).to(dtype)
    return torch.stack((angle.cos(), angle.sin()))


def dots(q: Tensor, k: Tensor, angle: Tensor) -> Tensor:
    """Return Re(q_i e^{i t_i} conj(k_j e^{i t_j})) summed over pairs, (B, H, L, L)."""
    q, k = (torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angle), angle) for x in (q, k))
    return torch.einsum("blhc,bmhc->bhlm", q, k.conj()).real


def decayed_dots(q: Tensor, k: Tensor, angle: Tensor, g: Tensor) -> Tensor:
    """Return sum_c q_ic k_jc exp(g_ic - g_jc) of rotated q and k, (B, H, L, L), and 0 for j > i; g is (B, H K, L)."""
    turned = (torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angle), angle) for x in (q, k))
    q, k = (torch.cat((z.real, z.imag), -1) for z in turned)
    g = g.unflatten(1, (HEADS, -1)).permute(0, 3, 1, 2)
    gap = (g[:, :, None] - g[:, None]).masked_fill(
        ~torch.ones(2 * g.shape[1:2]).bool().tril()[:, :, None, None], -torch.inf
    )
    return torch.einsum("blhc,bmhc,blmhc->bhlm", q, k, gap.exp())


def normalized(norm: HeadNorm, x: Tensor) -> Tensor:
    """Return content as the model normalizes it."""
    if not norm.has_content_norm:
        return x
    x = x / (x.norm(dim=-1, keepdim=True) ** 2 / x.shape[-1] + 1e-6).sqrt()
    return x if norm.gain is None else x * norm.gain.detach().double()


def rates(mixer: Sisa, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return decay (B, H, L), or (B, H K, L) of channels, and phase steps (B, L, H, S), float64."""
    config, batch, length, groups = mixer.config, *x.shape[:2], mixer.kv_heads
    decay = torch.zeros(batch, length, groups).double()
    phase = torch.zeros(batch, length, groups, mixer.d_s // 2).double()
    *_, raw_decay, raw_phase, _ = (x @ rows.T for rows in parts(mixer, mixer.project.weight.detach().double()))
    if decays(mixer):
        decay = softplus(raw_decay + mixer.decay_bias.detach().double())
        if mixer.decay_limit < math.inf:
            decay = mixer.decay_limit * torch.tanh(decay / mixer.decay_limit)
    elif config.decay_kind == "alibi":
        decay = decay + torch.tensor([2.0**-4, 2.0**-8]).double()
    if config.has_rotation:
        phase = raw_phase.view(phase.shape)
    decay, phase = (own.repeat_interleave(HEADS // groups, 2) for own in (decay, phase))
    return decay.transpose(1, 2), phase


def reference(mixer: Sisa, x: Tensor, angle: Tensor) -> Tensor:
    """Return what the mixer should, at these position angles, (L, K / 2)."""
    x, angle, config = x.detach().double(), angle.double(), mixer.config
    batch, length = x.shape[:2]
    d_h, d_s = WIDTH // HEADS, mixer.d_s
    rows = parts(mixer, mixer.project.weight.detach().double())
    q, k, v = (
        (x @ own.T).view(batch, length, heads, -1).repeat_interleave(HEADS // heads, 2)
        for own, heads in zip(rows, (HEADS, mixer.kv_heads, mixer.kv_heads), strict=False)
    )
    (q, c), (k, b) = (part.split([d_h, d_s], -1) for part in (q, k))
    q, k = normalized(mixer.query_norm, q), normalized(mixer.key_norm, k)
    if config.normalize_importance:
        c, b = (x / (x.norm(dim=-1, keepdim=True) ** 2 / d_s + 1e-6).sqrt() for x in (c, b))
    logits = dots(q, k, angle[None, :, None].expand(batch, -1, HEADS, -1)) / d_h**0.5
    decay, phase = rates(mixer, x)
    g = -decay.cumsum(-1)
    if config.decay_kind == "channels":
        logits = decayed_dots(q, k, angle[None, :, None].expand(batch, -1, HEADS, -1), g) / d_h**0.5
        g = torch.zeros(batch, HEADS, length).double()
    bias = g[..., :, None] - g[..., None, :]
    if config.form == "published":
        middle = (g.amax(-1, keepdim=True) + g.amin(-1, keepdim=True)) / 2
        e = (g - middle).clamp(-11, 11)
        bias = e[..., :, None] - e[..., None, :]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    bias = bias.masked_fill(future, 0)
    if mixer.d_s:
        importance = dots(c, b, phase.cumsum(1))
        weight = softplus(mixer.lambda_raw.detach().double())[:, None, None]
        weight = weight / d_s**0.5 if config.logit_scale == "sqrt_d_s" else weight
        logits = logits + weight * bias.exp() * importance
    else:
        logits = logits + bias
    if config.activation == "sigmoid":
        count = torch.arange(1, length + 1)[:, None].double()
        weights = torch.sigmoid(logits - count.log()).masked_fill(future, 0)
    else:
        place = torch.arange(length)
        is_gone = place[:, None] - place >= (mixer.window_tokens or length)
        weights = logits.masked_fill(future | is_gone, -torch.inf).softmax(-1)
    y = (weights @ v.transpose(1, 2)).transpose(1, 2)
    if len(rows[-1]):
        y = y / (1 + (-(x @ rows[-1].T)).exp().view(batch, length, HEADS, -1))
    return y.reshape(batch, length, WIDTH) @ mixer.out.weight.detach().double().T


def leak(mixer: Sisa, x: Tensor, cut: int) -> float:
    """Return the largest gradient of outputs before the cut with respect to inputs from the cut on."""
    x = x.detach().requires_grad_()
    out = mixer(x, turns(x.shape[1], x.dtype))[:, :cut]
    (gradient,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), x)
    assert gradient.isfinite().all()
    assert gradient[:, :cut].abs().max() > 1e-4
    return gradient[:, cut:].abs().max().item()


CONTROLS: dict[str, dict[str, Any]] = {
    "single_call": {"form": "single_call"},
    "query_blocks": {"form": "query_blocks"},
    "no decay": {"decay_kind": "none"},
    "no rotation": {"has_rotation": False},
    "no rotation blocks": {"has_rotation": False, "form": "query_blocks"},
    "neither": {"decay_kind": "none", "has_rotation": False},
    "scaled": {"logit_scale": "sqrt_d_s"},
    "sigmoid": {"activation": "sigmoid"},
    "sigmoid blocks": {"activation": "sigmoid", "form": "query_blocks"},
    "forget_gate": {"decay_kind": "forget_gate", "has_rotation": False},
    "alibi": {"decay_kind": "alibi", "has_rotation": False},
    "channels": {"decay_kind": "channels", "has_rotation": False, "position": "none"},
    "normalized channels": {"decay_kind": "channels", "has_rotation": False, "position": "none", "qk_norm": True},
    "normalized": {"normalize_importance": True, "qk_norm": True},
    "normalized blocks": {"normalize_importance": True, "qk_norm": True, "form": "query_blocks"},
    "normalized, gains": {"normalize_importance": True, "qk_norm": True, "qk_norm_gain": True},
    "normalized, no rotation": {"normalize_importance": True, "has_rotation": False},
    "normalized forget_gate": {"decay_kind": "forget_gate", "has_rotation": False, "qk_norm": True},
    "grouped": {"num_kv_heads": 1},
    "window": {"window_tokens": 20},
    "attention block": {
        "num_kv_heads": 1,
        "window_tokens": 16,
        "output_gate": "per_head",
        "normalize_importance": True,
    },
    "attention block, blocks": {
        "num_kv_heads": 1,
        "window_tokens": 20,
        "output_gate": "per_channel",
        "form": "query_blocks",
    },
    "attention block, forget_gate": {
        "num_kv_heads": 1,
        "window_tokens": 9,
        "decay_kind": "forget_gate",
        "has_rotation": False,
    },
    "sigmoid forget_gate": {"decay_kind": "forget_gate", "has_rotation": False, "activation": "sigmoid"},
}
UNBOUNDED = {name for name in CONTROLS if "blocks" in name or "forget_gate" in name}
HAVE_DECAY = set(CONTROLS) - {"no decay", "neither", "alibi"}
