"""The arithmetic of the logits: factors of the importance term, exact biases in channels, who sees whom.

Shapes: B batch, L length, M keys, H heads, K channels of content, S of importance, P pairs of those or pieces, C any.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sisa_scale.config.mixers.sisa import BIAS_CHANNELS
from sisa_scale.models.kernels.materialize import materialize
from sisa_scale.models.kernels.prefix_sum import prefix_sum, same_document
from sisa_scale.models.mixers.head_norm import HeadNorm
from sisa_scale.models.mixers.rotary import rotate, rotate_by_position
from sisa_scale.models.precision import upcast

PUBLISHED_CLAMP = 11.0


class RotatedHeads(NamedTuple):
    """Queries or keys, rotated: content by position, importance by phase. Apart, as importance is scaled yet."""

    content_BLHK: Tensor
    importance_BLHS: Tensor

    def at(self, tokens: slice) -> "RotatedHeads":
        """Return those of some tokens."""
        return RotatedHeads(self.content_BLHK[:, tokens], self.importance_BLHS[:, tokens])


class LogitParts(NamedTuple):
    """What the logits of a layer are made of, for every head: scale q.k + weight exp(-(total_i - total_j)) C.B.

    total_BLH is the sum of decay_BLH so far, in float64, and phase_BLHP that of the phase steps.
    """

    q: RotatedHeads
    k: RotatedHeads
    decay_BLH: Tensor
    total_BLH: Tensor
    phase_BLHP: Tensor
    weight_H: Tensor
    scale: float


def rotate_heads(
    x_BLHC: Tensor, norm: HeadNorm, cos_sin_2LK: Tensor, cos_BLHP: Tensor, sin_BLHP: Tensor
) -> RotatedHeads:
    """Normalize and rotate heads [content | importance]: content by position and importance by its phase.

    Without phases importance stays as it is. Content is returned in the dtype of x, importance in the phases'.
    """
    widths = [norm.content_width, x_BLHC.shape[-1] - norm.content_width]
    content, importance = x_BLHC.split(widths, dim=-1)
    importance = norm.importance(importance)
    if cos_BLHP.shape[-1]:
        importance = rotate(importance, cos_BLHP, sin_BLHP)
    return RotatedHeads(rotate_by_position(norm.content(content), cos_sin_2LK).to(x_BLHC.dtype), importance)


def scaled_heads(heads: RotatedHeads, exponent_BLH: Tensor, weight_H: Tensor, num_zeros: int = 0) -> Tensor:
    """Return heads [content | weight e^exponent importance | zeros], (B, L, H, K + S + zeros), in the dtype of content.

    An exponent of 40 in fp32 costs two digits of its exponential; one in float64 does not.
    """
    weight_H = upcast(weight_H)
    scale_BLH = materialize(weight_H * exponent_BLH.exp().to(weight_H.dtype))
    importance_BLHS = materialize((heads.importance_BLHS * scale_BLH[..., None]).to(heads.content_BLHK.dtype))
    zeros = importance_BLHS.new_zeros(*importance_BLHS.shape[:-1], num_zeros)
    return torch.cat((heads.content_BLHK, importance_BLHS, zeros), dim=-1)


def decayed_heads(heads: RotatedHeads, exponent_BLC: Tensor) -> Tensor:
    """Return heads whose every channel of content has e^exponent of its own, (B, L, H, K), in the dtype of content.

    exponent_BLC has the channels of all heads, side by side.
    """
    content_BLHK = heads.content_BLHK
    factor_BLHK = exponent_BLC.exp().unflatten(-1, content_BLHK.shape[2:])
    return (content_BLHK * factor_BLHK).to(content_BLHK.dtype)


def bounded_decay(raw_BLH: Tensor, bias_H: Tensor, limit: float) -> Tensor:
    """Return the decay of every token and head in nats: softplus(raw + bias), smoothly bounded by a finite limit."""
    decay_BLH = softplus(raw_BLH + bias_H)
    return decay_BLH if limit == math.inf else limit * torch.tanh(decay_BLH / limit)


def running_sums(
    decay_BLH: Tensor, phase_BLC: Tensor, document_BL: Tensor | None, *, is_long: bool
) -> tuple[Tensor, Tensor]:
    """Return the prefix sums of decays and of phase steps, (B, L, H) and (B, L, H, P), of every document anew.

    is_long: summed in float64, as small differences of large sums of decays are to be used; those stay in float64.
    """
    heads = decay_BLH.shape[-1]
    with torch.autocast(decay_BLH.device.type, enabled=False):
        rates_BLC = torch.cat((decay_BLH, phase_BLC), dim=-1)
        sums_BLC = prefix_sum(rates_BLC.double() if is_long else rates_BLC, document_BL)
    total_BLH, sums_BLC = sums_BLC.split([heads, phase_BLC.shape[-1]], dim=-1)
    return total_BLH, sums_BLC.to(phase_BLC.dtype).unflatten(-1, (heads, phase_BLC.shape[-1] // heads))


def published_exponent(total_BLH: Tensor) -> Tensor:
    """Return clamp(g - c, -11, 11) with c the middle of the whole sequence's range, as the authors' code has it.

    c depends on the last token, and by the clamp so do all logits once the range exceeds 22 nats: not causal.
    """
    g_BLH = -total_BLH
    middle_B1H = (g_BLH.amax(1, keepdim=True) + g_BLH.amin(1, keepdim=True)) / 2
    return (g_BLH - middle_B1H).clamp(-PUBLISHED_CLAMP, PUBLISHED_CLAMP)


def bias_channels(g_BLH: Tensor, head_width: int) -> tuple[Tensor, Tensor]:
    """Return query and key channels, (B, L, H, 8) each, whose product over sqrt(d_h) is g_i - g_j.

    A sum of hundreds of nats does not fit bf16, but three bf16 pieces of it hold all 24 bits of an fp32: each piece
    times 1 is exact, and kernels add in fp32. The reference point is the start of the sequence, the only one that is
    causal and the same for all queries of a call.
    """
    pieces_BLHP = exact_pieces(g_BLH * head_width**0.5)
    ones = torch.ones_like(pieces_BLHP)
    zeros = torch.zeros_like(pieces_BLHP[..., : BIAS_CHANNELS - 6])
    return torch.cat((pieces_BLHP, ones, zeros), dim=-1), torch.cat((ones, -pieces_BLHP, zeros), dim=-1)


def exact_pieces(x: Tensor) -> Tensor:
    """Return three numbers along a new last axis that sum to x: two that bf16 holds exactly, and the rest.

    Gradients go through the rest alone: the pieces are read with equal weight.
    """
    first = x.detach().bfloat16().to(x.dtype)
    second = (x.detach() - first).bfloat16().to(x.dtype)
    return torch.stack((first, second, x - first - second), dim=-1)


def alibi_slopes(num_heads: int, device: torch.device) -> Tensor:
    """Return ALiBi's slope per head (Press et al. 2022, 2108.12409): 2^(-8 h / H), its exponent rounded to an integer.

    Powers of two keep slope x position exact. For 1, 2, 4 and 8 heads the slopes are the paper's.
    """
    exponents = [-(-8 * head // num_heads) for head in range(1, num_heads + 1)]
    return 2.0 ** -torch.tensor(exponents, device=device, dtype=torch.float32)


def document_mask(document_BL: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what packed documents add to the logits, (B, L, M): 0 for the keys up to a query in its own document.

    All others get -inf. In the dtype of queries and keys, so that the layers share one mask: of a boolean one, every
    layer would make this and keep it for its backward pass. Positions need no new start: they act as differences.
    """
    mask_BLM = torch.zeros((), dtype=dtype, device=document_BL.device)
    return mask_BLM.masked_fill(~same_document(document_BL), -torch.inf)
