"""SISA: an importance term from a state-space model inside the attention score (paper 2606.02332).

    logit_ij = q_i . k_j / sqrt(d_h) + lambda exp(g_i - g_j) (R(phi_i) C_i) . (R(phi_j) B_j),   j <= i

g is the running sum of log-decays, phi of phase angles. Both factors of the importance term are written into extra
channels of the queries and keys, so one stock SDPA call computes all of it.

Where this departs from the published code, on purpose: the anchor c that keeps exp(g_i - c) and exp(c - g_j) finite
depends on nothing later. The published anchor is computed from the whole sequence and its clamp lets earlier outputs
depend on later tokens. The forms differ in c alone:

    single_call    c = -range / 2, and the decay of one token is bounded by range / max_length
    query_blocks   c = g before the block of queries, one call per block, and the logits inside a block as they are
                   written (see models.mixers.unbounded_decay): a token's decay is unbounded
    published      the authors'; for their checkpoints only

A single_call that reads more tokens than its bound was made for takes blocks, too: of as many tokens as the bound was
made for, with c = g before the block - range / 2, since that holds the decay of a whole block.

Controls take parts away (see SisaConfig). forget_gate and alibi have no importance term; they add g_i - g_j to the
content logit, by extra channels as well. channels has none either: every channel c of content has a decay of its own,

    logit_ij = sum_c q_ic k_jc exp(g_ic - g_jc) / sqrt(d_h)

with the anchor and the bound of single_call, and so one call without extra channels.

Grouped queries, windows and the output gate are those of `models.mixers.attention`. In a window single_call takes a few
calls (`kernels.window`), and blocks a mask; the logits of what is seen are the same.

Shapes: B batch, L length, M keys, D width, H heads, G groups that share keys and values, C channels of an augmented
head, J = d_h, P = d_s / 2 phases.
"""

import math
import warnings
from typing import Self

import torch
from torch import Tensor

from sisa_scale.config.mixers.sisa import BIAS_CHANNELS
from sisa_scale.config.model import ModelConfig
from sisa_scale.errors import SisaScaleWarning
from sisa_scale.models.cache import AnchoredCache, ChannelCache, SisaCache
from sisa_scale.models.kernels.flash4 import kernel_width
from sisa_scale.models.kernels.prefix_sum import same_document
from sisa_scale.models.kernels.sdpa import BlockMasks, attend, attend_where
from sisa_scale.models.kernels.sigmoid_attention import attend_sigmoid
from sisa_scale.models.kernels.window import attend_window, sees
from sisa_scale.models.mixers.augmented_heads import AugmentedHeads
from sisa_scale.models.mixers.grouped_heads import gated
from sisa_scale.models.mixers.importance import (
    PUBLISHED_CLAMP,
    LogitParts,
    RotatedHeads,
    document_mask,
    published_exponent,
    running_sums,
)
from sisa_scale.models.mixers.unbounded_decay import (
    DecayingHeads,
    attend_unbounded,
    attend_unbounded_sigmoid,
    in_blocks,
)

PIECE_TOKENS = 1024  # new tokens that `extend` reads at once: bounds its masks


class Sisa(AugmentedHeads):
    """The mixer: exact, and but for the published form strictly causal."""

    def __init__(self, config: ModelConfig, backend: str, layer: int = 0) -> None:
        super().__init__(config, layer)
        self.backend, self.window_tokens = backend, config.window_of(layer)
        # Zeros that a kernel would add by itself, in a pass over all queries and keys of its own.
        width = self.head_width + self.d_s
        self.num_zeros = kernel_width(width) - width if backend == "flash_4" else 0
        # Half the decay that one anchor covers: exponents stay within +-half_range.
        self.half_range = 0.5 * self.config.decay_range_nats if self.config.is_within_logit else 0.0
        if self.form == "published" and layer == 0:
            _warn_of_the_future(config.max_length_tokens)

    @classmethod
    def build(cls, model: ModelConfig, layer: int, attention_backend: str) -> Self:
        """Return the mixer of a layer."""
        return cls(model, attention_backend, layer)

    def forward(
        self,
        x_BLD: Tensor,
        cos_sin_2LK: Tensor,
        document_BL: Tensor | None = None,
        mask_BLM: Tensor | None = None,
    ) -> Tensor:
        """Mix along the length.

        cos_sin_2LK are those of `position_cos_sin`. document_BL numbers the document of every token: each is read as if
        alone, its decay and phase summed anew, through a mask, which is slower. mask_BLM is that mask (see
        `document_mask`), made here if it is not given.
        """
        q_BLHC, k_BLGC, v_BLGJ, decay_BLG, phase_BLC, gate_BLC = self.projected(x_BLD)
        is_long = self.form == "query_blocks"
        total_BLG, phase_BLGP = running_sums(decay_BLG, phase_BLC, document_BL, is_long=is_long)
        q, k = self.rotate(q_BLHC, k_BLGC, cos_sin_2LK, phase_BLGP)
        if document_BL is not None and mask_BLM is None:
            mask_BLM = document_mask(document_BL, v_BLGJ.dtype)
        if self.form == "query_blocks":
            attend_by_blocks = self._attend_unbounded if self.is_unbounded else self._attend_by_blocks
            return self._merge(attend_by_blocks(q, k, v_BLGJ, total_BLG, document_BL, mask_BLM), gate_BLC)
        if not self.is_scaled:
            q_BLHC, k_BLGC = self.biased(q, k, -total_BLG)
        elif self.form == "published":
            if document_BL is not None:
                raise ValueError("the published form reads documents together: its anchor spans the whole sequence")
            q_BLHC, k_BLGC = self.scaled(q, k, published_exponent(total_BLG))
        else:
            q_BLHC, k_BLGC = self.scaled(q, k, self.half_range - total_BLG, self.num_zeros)
        if self.window_tokens is None or self.window_tokens >= v_BLGJ.shape[1]:
            return self._merge(self._attend(q_BLHC, k_BLGC, v_BLGJ, mask_BLM), gate_BLC)
        out = attend_window(
            q_BLHC, self.exchange.for_every_head(k_BLGC), self.exchange.for_every_head(v_BLGJ),
            window_tokens=self.window_tokens, scale=self.head_width**-0.5, document_BL=document_BL,
        )  # fmt: skip
        return self._merge(out, gate_BLC)

    def logit_parts(
        self, x_BLD: Tensor, cos_sin_2LK: Tensor, document_BL: Tensor | None = None, _mask_BLM: Tensor | None = None
    ) -> LogitParts:
        """Return what the logits are made of when `forward` is given the same."""
        q_BLHC, k_BLGC, _, decay_BLG, phase_BLC, _ = self.projected(x_BLD)
        total_BLG, phase_BLGP = running_sums(decay_BLG, phase_BLC, document_BL, is_long=True)
        q, k = self.rotate(q_BLHC, k_BLGC, cos_sin_2LK, phase_BLGP)
        decay_BLH, total_BLH, phase_BLHP = map(self.exchange.for_every_head, (decay_BLG, total_BLG, phase_BLGP))
        k, scale = RotatedHeads(*map(self.exchange.for_every_head, k)), self.head_width**-0.5
        return LogitParts(q, k, decay_BLH, total_BLH, phase_BLHP, scale * self.weight().square(), scale)

    def new_cache(self, batch: int, device: torch.device, dtype: torch.dtype) -> SisaCache:
        """Return the cache of rows that hold no token yet; `dtype` is that of its keys and values."""
        if self.form == "published":
            raise ValueError(
                "the published form of SISA has no cache: its anchor is the middle of the whole sequence's decay, so "
                "every new token changes the keys of all earlier ones. Decode with form: query_blocks."
            )
        if self.config.decay_kind == "channels":
            return ChannelCache(batch, self.kv_heads, self.head_width, device, dtype, self.window_tokens)
        key_width = self.head_width + (self.d_s or BIAS_CHANNELS)
        cache = AnchoredCache if self.config.has_importance else SisaCache
        widths = key_width, self.head_width, self.num_phases
        return cache(batch, self.kv_heads, *widths, device, dtype, self.window_tokens)

    @torch.no_grad()
    def extend(
        self, x_BLD: Tensor, cache: SisaCache, cos_sin_2BLK: Tensor, is_token_BL: Tensor | None = None
    ) -> Tensor:
        """Return what `forward` would for these L tokens after those in the cache; the cache then holds them, too.

        False in is_token_BL marks padding before the first token of a row; it has no influence. The anchor of a head
        moves on when 30 nats have decayed, so no form needs a bound here: any decay and any length are exact.
        """
        q_BLHC, k_BLGC, v_BLGJ, decay_BLG, phase_BLC, gate_BLC = self.projected(x_BLD)
        if is_token_BL is not None:
            decay_BLG = decay_BLG.masked_fill(~is_token_BL[..., None], 0.0)
            phase_BLC = phase_BLC.masked_fill(~is_token_BL[..., None], 0.0)
        total_BLG, phase_BLGP = running_sums(decay_BLG, phase_BLC, None, is_long=True)
        phase_BLGP = cache.phase_BGP[:, None] + phase_BLGP
        cache.phase_BGP = phase_BLGP[:, -1].remainder(2 * math.pi)
        q_rotated, k_rotated = self.rotate(q_BLHC, k_BLGC, cos_sin_2BLK, phase_BLGP)
        augment = self.scaled if self.is_scaled else self.biased
        pieces, start, length = [], 0, x_BLD.shape[1]
        while start < length:
            before_B1G = total_BLG[:, start - 1 : start] if start else torch.zeros_like(total_BLG[:, :1])
            since_BLG = cache.since(total_BLG[:, start : start + PIECE_TOKENS] - before_B1G)
            now = slice(start, start + since_BLG.shape[1])
            q, k = augment(q_rotated.at(now), k_rotated.at(now), -since_BLG)
            is_token = None if is_token_BL is None else is_token_BL[:, now]
            keys, values, is_visible_BLM = cache.append(k, v_BLGJ[:, now], is_token)
            pieces.append(self._attend(q.to(keys.dtype), keys, values, is_visible_BLM))
            start = now.stop
        return self._merge(torch.cat(pieces, dim=1).to(v_BLGJ.dtype), gate_BLC)

    def _attend_by_blocks(
        self,
        q: RotatedHeads,
        k: RotatedHeads,
        v_BLGJ: Tensor,
        total_BLG: Tensor,
        document_BL: Tensor | None,
        mask_BLM: Tensor | None,
    ) -> Tensor:
        """Attend a block of queries at a time, with the keys' factors made anew from the sum before the block.

        A bounded decay stays within the range inside a block. Only sums of documents that no query of the block sees
        exceed it: cut off, they stay finite.
        """
        blocks, length = [], v_BLGJ.shape[1]
        step = min(self.block_tokens, length)
        causal = BlockMasks.causal(length, step, v_BLGJ) if mask_BLM is None else None
        for start in range(0, length, step):
            stop = min(start + step, length)
            now, seen = slice(start, stop), slice(0, stop)
            before_BMG = total_BLG[:, start - 1 : start] if start else torch.zeros_like(total_BLG[:, :1])
            if document_BL is not None and start:
                # Documents that begin in the block begin with a sum of 0, their anchor.
                is_same_BM = document_BL[:, seen] == document_BL[:, start - 1 : start]
                before_BMG = before_BMG * is_same_BM[..., None]
            since_BMG = (total_BLG[:, seen] - before_BMG).clamp(max=2 * self.half_range)
            q_BTHC = self.scaled_queries(q.at(now), self.half_range - since_BMG[:, now])
            k_BMGC = self.scaled_keys(k.at(seen), since_BMG - self.half_range)
            block_mask = None if mask_BLM is None else mask_BLM[:, now, seen]
            if causal is not None and start:  # the first block is what is_causal is made for
                block_mask = causal.of(start, stop)
            if self.window_tokens is not None and self.window_tokens < stop:
                block_mask = self._in_window(now, seen, v_BLGJ, block_mask)
            blocks.append(self._attend(q_BTHC, k_BMGC, v_BLGJ[:, seen], block_mask))
        return torch.cat(blocks, dim=1)

    def _attend_unbounded(
        self,
        q: RotatedHeads,
        k: RotatedHeads,
        v_BLGJ: Tensor,
        total_BLG: Tensor,
        document_BL: Tensor | None,
        mask_BLM: Tensor | None,
    ) -> Tensor:
        length = v_BLGJ.shape[1]
        block = min(self.block_tokens, length)
        place_T = torch.arange(block, device=v_BLGJ.device)
        own_BNTT = sees(place_T, place_T, self.window_tokens or 0)[None, None]
        if document_BL is not None:
            own_BNTT = own_BNTT & same_document(in_blocks(document_BL, block))

        def earlier(start: int, stop: int) -> Tensor | None:
            now, before = slice(start, stop), slice(0, start)
            block_mask = None if mask_BLM is None else mask_BLM[:, now, before]
            if self.window_tokens is None or self.window_tokens >= stop:
                return block_mask
            return self._in_window(now, before, v_BLGJ, block_mask)

        weight_H, for_heads = self.weight(), self.exchange.for_every_head
        k, v_BLHJ, total_BLH = RotatedHeads(*map(for_heads, k)), for_heads(v_BLGJ), for_heads(total_BLG)
        heads = DecayingHeads(q, k, v_BLHJ, total_BLH, total_BLH, (weight_H, weight_H), self.head_width**-0.5)
        attend = attend_unbounded_sigmoid if self.config.activation == "sigmoid" else attend_unbounded
        return attend(heads, own_BNTT, earlier)

    def _in_window(self, queries: slice, keys: slice, like: Tensor, mask_BLM: Tensor | None) -> Tensor:
        """Return what queries add to the logits of keys, (B, L, M), of a mask and the window."""
        assert self.window_tokens is not None
        place_L, place_M = (torch.arange(part.start, part.stop, device=like.device) for part in (queries, keys))
        is_hidden_LM = ~sees(place_L, place_M, self.window_tokens)
        mask_BLM = like.new_zeros(()) if mask_BLM is None else mask_BLM
        return mask_BLM.masked_fill(is_hidden_LM[None], -torch.inf)

    def _attend(self, q_BLHC: Tensor, k_BMGC: Tensor, v_BMGJ: Tensor, mask_BLM: Tensor | None) -> Tensor:
        scale = self.head_width**-0.5
        k_BMHC, v_BMHJ = self.exchange.for_every_head(k_BMGC), self.exchange.for_every_head(v_BMGJ)
        if self.config.activation == "sigmoid":
            is_visible_BLM = mask_BLM
            if mask_BLM is not None and mask_BLM.is_floating_point():
                is_visible_BLM = mask_BLM == 0
            return attend_sigmoid(q_BLHC, k_BMHC, v_BMHJ, scale=scale, is_visible_BLM=is_visible_BLM)
        if mask_BLM is not None or q_BLHC.shape[1] == 1:  # a query alone sees all
            return attend_where(mask_BLM, q_BLHC, k_BMHC, v_BMHJ, scale=scale)
        return attend(q_BLHC, k_BMHC, v_BMHJ, scale=scale, backend=self.backend)

    def _merge(self, out_BLHJ: Tensor, gate_BLC: Tensor) -> Tensor:
        return self.out(gated(self.exchange.to_tokens(out_BLHJ.flatten(2)), gate_BLC))


def _warn_of_the_future(max_length_tokens: int) -> None:
    decay = 2 * PUBLISHED_CLAMP / max_length_tokens
    warnings.warn(
        "model.sisa.form: published is not causal: earlier outputs depend on later tokens for every head that decays "
        f"by more than {decay:.3g} nats per token at max_length_tokens {max_length_tokens}. Use it for published "
        "checkpoints only.",
        SisaScaleWarning,
        stacklevel=3,
    )
