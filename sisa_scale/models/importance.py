"""The arithmetic of the logits: factors of the importance term, exact biases in channels, who sees whom.

Shapes: B batch, L length, M keys, H heads, K channels of an augmented head, P pieces.
"""

import torch
from torch import Tensor

from sisa_scale.config.sisa import BIAS_CHANNELS
from sisa_scale.models.precision import widen
from sisa_scale.models.scan import same_document

PUBLISHED_CLAMP = 11.0


def channel_scale(exponent_BLH: Tensor, weight_H: Tensor, content_pairs: int, phase_pairs: int) -> Tensor:
    """Return the scale of every channel, (B, L, H, K): 1 for content, weight e^exponent for importance.

    Channels are rotated in pairs (c, c + K / 2), so a head is [content, importance, content, importance].
    An exponent of 40 in fp32 costs two digits of its exponential; one in float64 does not.
    """
    weight_H = widen(weight_H)
    scale_BLH = weight_H * exponent_BLH.exp().to(weight_H.dtype)
    shape = scale_BLH.shape
    ones = scale_BLH.new_ones(()).expand(*shape, content_pairs)
    half = torch.cat((ones, scale_BLH[..., None].expand(*shape, phase_pairs)), dim=-1)
    return torch.cat((half, half), dim=-1)


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
