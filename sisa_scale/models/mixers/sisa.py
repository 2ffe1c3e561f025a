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

Shapes: B batch, L length, M keys, D width, H heads, C channels of an augmented head, J = d_h, P = d_s / 2 phases.
"""

import math
import warnings
from collections.abc import Callable
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
from sisa_scale.models.mixers.augmented_heads import AugmentedHeads
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
        self.backend = backend
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
        q_BLHC, k_BLHC, v_BLHJ, decay_BLH, phase_BLC = self.projected(x_BLD)
        is_long = self.form == "query_blocks"
        total_BLH, phase_BLHP = running_sums(decay_BLH, phase_BLC, document_BL, is_long=is_long)
        q, k = self.rotate(q_BLHC, k_BLHC, cos_sin_2LK, phase_BLHP)
        if document_BL is not None and mask_BLM is None:
            mask_BLM = document_mask(document_BL, v_BLHJ.dtype)
        if self.form == "query_blocks":
            attend_by_blocks = self._attend_unbounded if self.is_unbounded else self._attend_by_blocks
            return self._merge(attend_by_blocks(q, k, v_BLHJ, total_BLH, document_BL, mask_BLM))
        if self.config.decay_kind == "channels":
            q_BLHC, k_BLHC = self.decayed(q, k, self.half_range - total_BLH)
        elif not self.config.has_importance:
            q_BLHC, k_BLHC = self.biased(q, k, -total_BLH)
        elif self.form == "published":
            if document_BL is not None:
                raise ValueError("the published form reads documents together: its anchor spans the whole sequence")
            q_BLHC, k_BLHC = self.scaled(q, k, published_exponent(total_BLH))
        else:
            q_BLHC, k_BLHC = self.scaled(q, k, self.half_range - total_BLH, self.num_zeros)
        return self._merge(self._attend(q_BLHC, k_BLHC, v_BLHJ, mask_BLM))

    def logit_parts(
        self, x_BLD: Tensor, cos_sin_2LK: Tensor, document_BL: Tensor | None = None, _mask_BLM: Tensor | None = None
    ) -> LogitParts:
        """Return what the logits are made of when `forward` is given the same."""
        q_BLHC, k_BLHC, _, decay_BLH, phase_BLC = self.projected(x_BLD)
        total_BLH, phase_BLHP = running_sums(decay_BLH, phase_BLC, document_BL, is_long=True)
        q, k = self.rotate(q_BLHC, k_BLHC, cos_sin_2LK, phase_BLHP)
        scale = self.head_width**-0.5
        return LogitParts(q, k, decay_BLH, total_BLH, phase_BLHP, scale * self.weight().square(), scale)

    def new_cache(self, batch: int, device: torch.device, dtype: torch.dtype) -> SisaCache:
        """Return the cache of rows that hold no token yet; `dtype` is that of its keys and values."""
        if self.form == "published":
            raise ValueError(
                "the published form of SISA has no cache: its anchor is the middle of the whole sequence's decay, so "
                "every new token changes the keys of all earlier ones. Decode with form: query_blocks."
            )
        if self.config.decay_kind == "channels":
            return ChannelCache(batch, self.num_heads, self.head_width, device, dtype)
        key_width = self.head_width + (self.d_s or BIAS_CHANNELS)
        cache = AnchoredCache if self.config.has_importance else SisaCache
        return cache(batch, self.num_heads, key_width, self.head_width, self.num_phases, device, dtype)

    @torch.no_grad()
    def extend(
        self, x_BLD: Tensor, cache: SisaCache, cos_sin_2BLK: Tensor, is_token_BL: Tensor | None = None
    ) -> Tensor:
        """Return what `forward` would for these L tokens after those in the cache; the cache then holds them, too.

        False in is_token_BL marks padding before the first token of a row; it has no influence. The anchor of a head
        moves on when 30 nats have decayed, so no form needs a bound here: any decay and any length are exact.
        """
        q_BLHC, k_BLHC, v_BLHJ, decay_BLH, phase_BLC = self.projected(x_BLD)
        if is_token_BL is not None:
            decay_BLH = decay_BLH.masked_fill(~is_token_BL[..., None], 0.0)
            phase_BLC = phase_BLC.masked_fill(~is_token_BL[..., None], 0.0)
        total_BLH, phase_BLHP = running_sums(decay_BLH, phase_BLC, None, is_long=True)
        phase_BLHP = cache.phase_BHP[:, None] + phase_BLHP
        cache.phase_BHP = phase_BLHP[:, -1].remainder(2 * math.pi)
        q_rotated, k_rotated = self.rotate(q_BLHC, k_BLHC, cos_sin_2BLK, phase_BLHP)
        augment: Callable[[RotatedHeads, RotatedHeads, Tensor], tuple[Tensor, Tensor]]
        if self.config.decay_kind == "channels":
            augment = self.decayed
        else:
            augment = self.scaled if self.config.has_importance else self.biased
        pieces, start, length = [], 0, x_BLD.shape[1]
        while start < length:
            before_B1H = total_BLH[:, start - 1 : start] if start else torch.zeros_like(total_BLH[:, :1])
            since_BLH = cache.since(total_BLH[:, start : start + PIECE_TOKENS] - before_B1H)
            now = slice(start, start + since_BLH.shape[1])
            q, k = augment(q_rotated.at(now), k_rotated.at(now), -since_BLH)
            is_token = None if is_token_BL is None else is_token_BL[:, now]
            keys, values, is_visible_BLM = cache.append(k, v_BLHJ[:, now], is_token)
            pieces.append(self._attend(q.to(keys.dtype), keys, values, is_visible_BLM))
            start = now.stop
        return self._merge(torch.cat(pieces, dim=1).to(v_BLHJ.dtype))

    def _attend_by_blocks(
        self,
        q: RotatedHeads,
        k: RotatedHeads,
        v_BLHJ: Tensor,
        total_BLH: Tensor,
        document_BL: Tensor | None,
        mask_BLM: Tensor | None,
    ) -> Tensor:
        """Attend a block of queries at a time, with the keys' factors made anew from the sum before the block.

        A bounded decay stays within the range inside a block. Only sums of documents that no query of the block sees
        exceed it: cut off, they stay finite.
        """
        blocks, length, scaled = [], v_BLHJ.shape[1], self.factors()
        step = min(self.block_tokens, length)
        causal = BlockMasks.causal(length, step, v_BLHJ) if mask_BLM is None else None
        for start in range(0, length, step):
            stop = min(start + step, length)
            now, seen = slice(start, stop), slice(0, stop)
            before_BMH = total_BLH[:, start - 1 : start] if start else torch.zeros_like(total_BLH[:, :1])
            if document_BL is not None and start:
                # Documents that begin in the block begin with a sum of 0, their anchor.
                is_same_BM = document_BL[:, seen] == document_BL[:, start - 1 : start]
                before_BMH = before_BMH * is_same_BM[..., None]
            since_BMH = (total_BLH[:, seen] - before_BMH).clamp(max=2 * self.half_range)
            q_BLHC = scaled(q.at(now), self.half_range - since_BMH[:, now])
            k_BMHC = scaled(k.at(seen), since_BMH - self.half_range)
            block_mask = None if mask_BLM is None else mask_BLM[:, now, seen]
            if causal is not None and start:  # the first block is what is_causal is made for
                block_mask = causal.of(start, stop)
            blocks.append(self._attend(q_BLHC, k_BMHC, v_BLHJ[:, seen], block_mask))
        return torch.cat(blocks, dim=1)

    def _attend_unbounded(
        self,
        q: RotatedHeads,
        k: RotatedHeads,
        v_BLHJ: Tensor,
        total_BLH: Tensor,
        document_BL: Tensor | None,
        mask_BLM: Tensor | None,
    ) -> Tensor:
        block = min(self.block_tokens, v_BLHJ.shape[1])
        if document_BL is None:
            own_BNTT = torch.ones(1, 1, block, block, dtype=torch.bool, device=v_BLHJ.device).tril()
        else:
            own_BNTT = same_document(in_blocks(document_BL, block))

        def earlier(start: int, stop: int) -> Tensor | None:
            return None if mask_BLM is None else mask_BLM[:, start:stop, :start]

        weight_H = self.weight()
        heads = DecayingHeads(q, k, v_BLHJ, total_BLH, total_BLH, (weight_H, weight_H), self.head_width**-0.5)
        attend = attend_unbounded_sigmoid if self.config.activation == "sigmoid" else attend_unbounded
        return attend(heads, own_BNTT, earlier)

    def _attend(self, q_BLHC: Tensor, k_BMHC: Tensor, v_BMHJ: Tensor, mask_BLM: Tensor | None) -> Tensor:
        scale = self.head_width**-0.5
        if self.config.activation == "sigmoid":
            is_visible_BLM = mask_BLM
            if mask_BLM is not None and mask_BLM.is_floating_point():
                is_visible_BLM = mask_BLM == 0
            return attend_sigmoid(q_BLHC, k_BMHC, v_BMHJ, scale=scale, is_visible_BLM=is_visible_BLM)
        if mask_BLM is not None or q_BLHC.shape[1] == 1:  # a query alone sees all
            return attend_where(mask_BLM, q_BLHC, k_BMHC, v_BMHJ, scale=scale)
        return attend(q_BLHC, k_BMHC, v_BMHJ, scale=scale, backend=self.backend)

    def _merge(self, out_BLHJ: Tensor) -> Tensor:
        return self.out(self.exchange.to_tokens(out_BLHJ.flatten(2)))


def _warn_of_the_future(max_length_tokens: int) -> None:
    decay = 2 * PUBLISHED_CLAMP / max_length_tokens
    warnings.warn(
        "model.sisa.form: published is not causal: earlier outputs depend on later tokens for every head that decays "
        f"by more than {decay:.3g} nats per token at max_length_tokens {max_length_tokens}. Use it for published "
        "checkpoints only.",
        SisaScaleWarning,
        stacklevel=3,
    )
