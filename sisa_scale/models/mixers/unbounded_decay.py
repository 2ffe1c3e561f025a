"""SISA's attention under a decay without bound (`form: query_blocks`): exact, a block of queries at a time.

The importance logit holds exp(g_i - g_j), and one attention call holds it as two factors, exp(g_i - c) of queries and
exp(c - g_j) of keys. With c the sum before a block, neither exceeds 1 for the block's queries and the keys before it,
and they vanish only where their product does. No c does that for all pairs inside the block. There logits are computed
as they are written, with the difference in the exponent, and give every query a weighted mean of values o_i and the log
of its weights' sum, z_i. What is left to compute is

    y_i = (exp(z_i) o_i + sum_j exp(logit_ij) v_j) / (exp(z_i) + sum_j exp(logit_ij)),    j before the block

and that is attention to the keys before the block and to one more key, whose logit is z_i and whose value is o_i. So a
block takes one stock attention call over as many keys as if its own were there.

Shapes: B batch, L queries, M keys of which the last L are the queries' tokens, N blocks, T tokens of a block, E keys
before a block, H heads, K channels of content, S of importance, C of an augmented head, J of values.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from sisa_scale.models.kernels.sdpa import BlockMasks, attend_where
from sisa_scale.models.kernels.sigmoid_attention import attend_sigmoid
from sisa_scale.models.mixers.importance import RotatedHeads, exact_pieces, scaled_heads
from sisa_scale.models.precision import upcast

MERGING_CHANNELS = 8  # three pieces of z, padded to a multiple of 8

Earlier = Callable[[int, int], Tensor | None]
"""Given a block, [start, stop) of the queries: which keys before it they see, (B or 1, T, E), or what is added to their
logits; None where they see all."""


class DecayingHeads(NamedTuple):
    """What the logits are made of. Keys and values are given for every head; the decay is its sum so far, in float64.

    weights: what importance channels of queries, and of keys, are multiplied by; their product is lambda / scale.
    """

    q: RotatedHeads
    k: RotatedHeads
    v_BMHJ: Tensor
    total_BLH: Tensor
    total_BMH: Tensor
    weights: tuple[Tensor, Tensor]
    scale: float


def attend_unbounded(heads: DecayingHeads, own_BNTT: Tensor, earlier: Earlier) -> Tensor:
    """Return softmax attention, (B, L, H, J).

    own_BNTT: which tokens of every block its tokens see, of `in_blocks`; the block's length is that of its last axis.
    """
    length, ahead = heads.total_BLH.shape[1], heads.total_BMH.shape[1] - heads.total_BLH.shape[1]
    block = own_BNTT.shape[-1]
    logits_BNHTT = _own_logits(heads, own_BNTT)
    z_BNHT1 = logits_BNHTT.logsumexp(-1, keepdim=True)
    own_BLHJ = _own_values((logits_BNHTT - z_BNHT1).exp(), heads)
    if ahead == 0 and length <= block:
        return own_BLHJ
    z_BLH = z_BNHT1[..., 0].transpose(2, 3).flatten(1, 2)[:, :length]
    merging_BLHC = pad(exact_pieces(z_BLH / heads.scale), (0, MERGING_CHANNELS - 3)).to(own_BLHJ.dtype)
    own_key_BTHC = _own_key(heads, own_BLHJ, block)
    is_other_TT = ~torch.eye(block, dtype=torch.bool, device=own_BLHJ.device)
    masks = BlockMasks(is_other_TT, length, own_BLHJ)
    pieces = [own_BLHJ[:, :block]] if ahead == 0 else []
    for start in range(0 if ahead else block, length, block):
        stop = min(start + block, length)
        now, own, before = slice(start, stop), slice(0, stop - start), slice(0, ahead + start)
        exponent_BTH, exponent_BEH = _exponents(heads, start, stop)
        q_BTHC = torch.cat((scaled_heads(heads.q.at(now), exponent_BTH, heads.weights[0]), merging_BLHC[:, now]), -1)
        k_BEHC = scaled_heads(heads.k.at(before), exponent_BEH, heads.weights[1], MERGING_CHANNELS)
        k_BMHC = torch.cat((k_BEHC, own_key_BTHC[:, own]), 1)
        v_BMHJ = torch.cat((heads.v_BMHJ[:, before], own_BLHJ[:, now]), 1)
        earlier_BTE = earlier(start, stop)
        mask_BTM = masks.of(start, stop) if earlier_BTE is None else _with_own(earlier_BTE, is_other_TT[own, own])
        pieces.append(attend_where(mask_BTM, q_BTHC, k_BMHC, v_BMHJ, scale=heads.scale))
    return torch.cat(pieces, 1)


def attend_unbounded_sigmoid(heads: DecayingHeads, own_BNTT: Tensor, earlier: Earlier) -> Tensor:
    """Return sigmoid attention, (B, L, H, J), see `attend_sigmoid`: both parts are sums, and add up. M is L."""
    length, block = heads.total_BLH.shape[1], own_BNTT.shape[-1]
    parts, counts = [], []
    num_own_BNT = own_BNTT.sum(-1).expand(heads.total_BLH.shape[0], -(-length // block), -1)
    num_own_BL = num_own_BNT.flatten(1)[:, :length]
    for start in range(0, length, block):
        stop = min(start + block, length)
        now, before = slice(start, stop), slice(0, start)
        is_visible_BTE = earlier(start, stop)
        if is_visible_BTE is None:
            is_visible_BTE = own_BNTT.new_ones(1, stop - start, start)
        elif is_visible_BTE.is_floating_point():
            is_visible_BTE = is_visible_BTE == 0
        counts.append(num_own_BL[:, now] + is_visible_BTE.sum(-1))
        if start:
            exponent_BTH, exponent_BEH = _exponents(heads, start, stop)
            q_BTHC = scaled_heads(heads.q.at(now), exponent_BTH, heads.weights[0])
            k_BEHC = scaled_heads(heads.k.at(before), exponent_BEH, heads.weights[1])
            parts.append(
                attend_sigmoid(
                    q_BTHC, k_BEHC, heads.v_BMHJ[:, before],
                    scale=heads.scale, is_visible_BLM=is_visible_BTE, num_seen_BL=counts[-1],
                )
            )  # fmt: skip
    num_seen_BNT = in_blocks(torch.cat(counts, 1), block).clamp(min=1)
    logits_BNHTT = _own_logits(heads, own_BNTT)
    weights_BNHTT = (logits_BNHTT - num_seen_BNT[:, :, None, :, None].to(logits_BNHTT.dtype).log()).sigmoid()
    own_BLHJ = _own_values(weights_BNHTT, heads)
    return own_BLHJ + pad(torch.cat(parts, 1), (0, 0, 0, 0, block, 0)) if parts else own_BLHJ


def in_blocks(x: Tensor, block: int) -> Tensor:
    """Cut the length, the second axis, into blocks: (B, N, T, ...); zeros fill the last."""
    missing = -x.shape[1] % block
    return pad(x, (0, 0) * (x.dim() - 2) + (0, missing)).unflatten(1, (-1, block))


def _own_logits(heads: DecayingHeads, own_BNTT: Tensor) -> Tensor:
    """Return the logits inside every block, (B, N, H, T, T), in fp32 or wider; -inf for what a token does not see."""
    length, block = heads.total_BLH.shape[1], own_BNTT.shape[-1]
    own = slice(heads.total_BMH.shape[1] - length, None)
    is_hidden_BNHTT = ~own_BNTT[:, :, None]

    def products(q_BLHC: Tensor, k_BMHC: Tensor) -> Tensor:
        q_BNHTC, k_BNHTC = (_heads_first(upcast(x), block) for x in (q_BLHC, k_BMHC[:, own]))
        return q_BNHTC @ k_BNHTC.mT

    with torch.autocast(heads.total_BLH.device.type, enabled=False):
        content_BNHTT = products(heads.q.content_BLHK, heads.k.content_BLHK)
        importance_BNHTT = products(heads.q.importance_BLHS, heads.k.importance_BLHS)
        total_BNHT = in_blocks(heads.total_BLH, block).transpose(2, 3)
        # Nothing that counts exceeds 0: the zeros that fill the last block do, and their exponentials would overflow.
        between_BNHTT = (total_BNHT[..., None, :] - total_BNHT[..., :, None]).clamp(max=0)
        between_BNHTT = between_BNHTT.masked_fill(is_hidden_BNHTT, -torch.inf)
        weight_H11 = (upcast(heads.weights[0]) * heads.weights[1])[..., None, None]
        decayed_BNHTT = weight_H11 * between_BNHTT.to(importance_BNHTT.dtype).exp() * importance_BNHTT
        return (heads.scale * (content_BNHTT + decayed_BNHTT)).masked_fill(is_hidden_BNHTT, -torch.inf)


def _own_values(weights_BNHTT: Tensor, heads: DecayingHeads) -> Tensor:
    """Return the values of every token's block by their weights, (B, L, H, J)."""
    length, v_BLHJ = heads.total_BLH.shape[1], heads.v_BMHJ[:, -heads.total_BLH.shape[1] :]
    v_BNHTJ = _heads_first(v_BLHJ, weights_BNHTT.shape[-1])
    out_BNHTJ = weights_BNHTT.to(v_BNHTJ.dtype) @ v_BNHTJ
    return out_BNHTJ.transpose(2, 3).flatten(1, 2)[:, :length]


def _own_key(heads: DecayingHeads, own_BLHJ: Tensor, block: int) -> Tensor:
    """Return keys whose product with a query is its z / scale, (B, T, H, C)."""
    width = heads.q.content_BLHK.shape[-1] + heads.q.importance_BLHS.shape[-1]
    ones = own_BLHJ.new_ones(own_BLHJ.shape[0], block, own_BLHJ.shape[2], 3)
    return pad(ones, (width, MERGING_CHANNELS - 3))


def _exponents(heads: DecayingHeads, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Return those of a block's queries and of all keys before it. None exceeds 0 for what sees, or is seen.

    Where documents have sums of their own, others are not seen, and the bound keeps their factors finite.
    """
    place = heads.total_BMH.shape[1] - heads.total_BLH.shape[1] + start
    before_B1H = heads.total_BMH[:, place - 1 : place]
    exponent_BTH = (before_B1H - heads.total_BLH[:, start:stop]).clamp(max=0)
    return exponent_BTH, (heads.total_BMH[:, :place] - before_B1H).clamp(max=0)


def _with_own(earlier_BTE: Tensor, is_other_TT: Tensor) -> Tensor:
    """Return the mask of the keys before a block and then of the queries' own keys."""
    own_TT = ~is_other_TT
    if earlier_BTE.is_floating_point():
        own_TT = torch.zeros((), dtype=earlier_BTE.dtype, device=own_TT.device).masked_fill(is_other_TT, -torch.inf)
    return torch.cat((earlier_BTE, own_TT.expand(earlier_BTE.shape[0], -1, -1)), -1)


def _heads_first(x_BLHC: Tensor, block: int) -> Tensor:
    return in_blocks(x_BLHC, block).transpose(2, 3)
