"""SISA's importance term (see models.mixers.sisa) in attention with grouped keys and values, a window and first tokens.

    logit_ij = q_i^h . k_j^g / sqrt(d_h) + lambda^h exp(g_i^g - g_j^g) (R(phi_i^g) C_i^h) . (R(phi_j^g) B_j^g)

Query head h reads the keys and values of its group g. What a key carries is the group's: B, the decay and the phase;
what a query carries is the head's: C and lambda. So the keys that the heads of a group share stay shared, and with as
many groups as heads this is SISA. Meta tokens decay and turn like all others. A window leaves out keys and changes no
logit, since the logit depends on differences alone.

The forms are SISA's: single_call has a constant anchor and a bounded decay, over all positions including the meta
tokens; query_blocks an anchor per block of queries, and explicit logits inside a block where the decay is unbounded
(models.mixers.unbounded_decay). The cache keeps rotated keys without their decay, and its sums.

Weights beyond the path's without SISA, a layer: d H d_s (C) + d G (d_s + d_s / 2 + 1) (B, phase, decay) in the
projection, and H (lambda) + G (decay bias), less what a control drops.

Shapes: as in local_attention, with K = d_h + d_s; P = d_s / 2 phases of a group.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from sisa_scale.config.model import ModelConfig
from sisa_scale.models.mixers.importance import (
    LogitParts,
    RotatedHeads,
    bounded_decay,
    rotate_heads,
    running_sums,
    scaled_heads,
)
from sisa_scale.models.mixers.local_attention import AttentionCache, LocalAttention
from sisa_scale.models.mixers.unbounded_decay import DecayingHeads, attend_unbounded, in_blocks
from sisa_scale.models.precision import upcast
from sisa_scale.models.row_parts import RowPart, augmented_parts


@dataclass(slots=True)
class LocalSisaCache(AttentionCache):
    """With the decay of every key since the start in nats, float64, its last sum, and the phase modulo 2 pi."""

    total_BSG: Tensor
    last_BG: Tensor
    phase_BGP: Tensor

    def keep(self, kept_S: Tensor) -> None:
        """Drop all other tokens."""
        AttentionCache.keep(self, kept_S)
        self.total_BSG = self.total_BSG[:, kept_S]


class LocalSisa(LocalAttention):
    """The attention path with importance: reads [q | k | v | decay | phase] with heads [content | importance]."""

    decay_bias: nn.Parameter

    def __init__(self, model: ModelConfig, backend: str, layer: int) -> None:
        super().__init__(model, backend, layer)
        config = model.sisa
        assert config is not None
        self.config = config
        self.d_s = config.d_s_of(layer)
        self.num_phases = self.d_s // 2 if config.has_rotation else 0
        self.key_width = self.head_width + self.d_s
        self.form = config.form_at(model.num_positions, model.trained_positions)
        self.decay_limit = config.decay_limit(model.trained_positions)
        self.is_unbounded = config.is_unbounded(model.trained_positions)
        self.block_tokens = config.queries_per_call(model.trained_positions)
        self.half_range = 0.5 * config.decay_range_nats if config.has_learned_decay else 0.0
        self.widths = [
            self.num_heads * self.key_width,
            self.kv_heads * self.key_width,
            self.kv_heads * self.value_width,
            self.kv_heads * config.has_learned_decay,
            self.kv_heads * self.num_phases,
        ]
        bias = nn.Parameter(torch.empty(self.kv_heads)) if config.has_learned_decay else None
        self.register_parameter("decay_bias", bias)
        self.lambda_raw = nn.Parameter(torch.empty(self.num_heads))

    def parts(self) -> dict[str, RowPart]:
        """Return the parts of this path's rows of the projection."""
        return augmented_parts(self.widths, self.num_heads, self.kv_heads, self.head_width)

    def rates(self, qkv_BLC: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decay of every token and group in nats, (B, L, G), and its phase steps in radians, (B, L, G P)."""
        return self._rates(*qkv_BLC.split(self.widths, dim=-1)[3:])

    def _rates(self, decay: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        decay, phase = upcast(decay), upcast(phase)
        if not self.config.has_learned_decay:
            return decay.new_zeros(()).expand(*decay.shape[:-1], self.exchange.own_kv_heads), phase
        return bounded_decay(decay, self.exchange.of_groups(self.decay_bias), self.decay_limit), phase

    def forward(self, qkv_BLC: Tensor, cos_sin_2LK: Tensor, document_BL: Tensor | None = None) -> Tensor:
        """Return (B, L, H J); cos_sin_2LK are those of `position_cos_sin`.

        document_BL numbers the document of every token; a token sees its own document's and the first tokens alone.
        """
        *qkv, decay, phase = self._to_heads(qkv_BLC)
        # First tokens are seen across documents, so that their logits need one sum through all.
        own_BL = None if self.num_first_tokens else document_BL
        total_BLG, phase_BLGP = running_sums(*self._rates(decay, phase), own_BL, is_long=self.form == "query_blocks")
        q, k, v_BLGJ = self._rotated(qkv, cos_sin_2LK, phase_BLGP)
        if self.form == "query_blocks":
            position_1L = torch.arange(v_BLGJ.shape[1], device=v_BLGJ.device)[None]
            totals, positions = (total_BLG, total_BLG), (position_1L, position_1L)
            return self.exchange.to_tokens(self._attend_by_blocks(q, k, v_BLGJ, totals, positions, document_BL))
        exponent_BLG = self.half_range - total_BLG
        out = self._attend(self._query(q, exponent_BLG), self._key(k, -exponent_BLG), v_BLGJ, document_BL)
        return self.exchange.to_tokens(out)

    def logit_parts(self, qkv_BLC: Tensor, cos_sin_2LK: Tensor, document_BL: Tensor | None = None) -> LogitParts:
        """Return what the logits are made of when `forward` is given the same."""
        *qkv, decay, phase = self._to_heads(qkv_BLC)
        decay_BLG, phase_BLC = self._rates(decay, phase)
        own_BL = None if self.num_first_tokens else document_BL
        total_BLG, phase_BLGP = running_sums(decay_BLG, phase_BLC, own_BL, is_long=True)
        q, k, _ = self._rotated(qkv, cos_sin_2LK, phase_BLGP)
        return LogitParts(
            q,
            RotatedHeads(*map(self.exchange.for_every_head, k)),
            self.exchange.for_every_head(decay_BLG),
            self.exchange.for_every_head(total_BLG),
            self.exchange.for_every_head(phase_BLGP),
            self.scale * self._weight(),
            self.scale,
        )

    def extend(
        self, qkv_BLC: Tensor, cache: AttentionCache, cos_sin_2BLK: Tensor, is_token_BL: Tensor | None = None
    ) -> Tensor:
        """Return what `forward` would for these L tokens after those in the cache; the cache then holds them, too."""
        assert isinstance(cache, LocalSisaCache)
        *qkv, decay_BLG, phase_BLC = qkv_BLC.split(self.widths, dim=-1)
        decay_BLG, phase_BLC = self._rates(decay_BLG, phase_BLC)
        if is_token_BL is not None:
            decay_BLG = decay_BLG.masked_fill(~is_token_BL[..., None], 0.0)
            phase_BLC = phase_BLC.masked_fill(~is_token_BL[..., None], 0.0)
        total_BLG, phase_BLGP = running_sums(decay_BLG, phase_BLC, None, is_long=True)
        total_BLG, phase_BLGP = total_BLG + cache.last_BG[:, None], phase_BLGP + cache.phase_BGP[:, None]
        cache.last_BG, cache.phase_BGP = total_BLG[:, -1], phase_BLGP[:, -1].remainder(2 * math.pi)
        q, k, v_BLGJ = self._rotated(qkv, cos_sin_2BLK, phase_BLGP)
        k_BLGK = torch.cat((k.content_BLHK, k.importance_BLHS.to(v_BLGJ.dtype)), dim=-1)
        positions = (self._append(cache, k_BLGK, v_BLGJ, is_token_BL), cache.position_BS)
        cache.total_BSG = torch.cat((cache.total_BSG, total_BLG), 1)
        totals = (total_BLG, cache.total_BSG)
        k = RotatedHeads(*cache.keys_BSGK.split([self.head_width, self.d_s], dim=-1))
        out = self._attend_by_blocks(q, k, cache.values_BSGJ, totals, positions, None)
        self._forget(cache)
        return out

    def new_cache(self, batch: int, device: torch.device, dtype: torch.dtype) -> LocalSisaCache:
        """Return the cache of rows that hold no token yet; `dtype` is that of the projection's result."""
        plain = super().new_cache(batch, device, dtype)
        wide = torch.promote_types(dtype, torch.float32)
        return LocalSisaCache(
            plain.keys_BSGK,
            plain.values_BSGJ,
            plain.position_BS,
            plain.num_tokens_B,
            total_BSG=torch.zeros(batch, 0, self.kv_heads, device=device, dtype=torch.float64),
            last_BG=torch.zeros(batch, self.kv_heads, device=device, dtype=torch.float64),
            phase_BGP=torch.zeros(batch, self.kv_heads, self.num_phases, device=device, dtype=wide),
        )

    def _rotated(
        self, qkv: Sequence[Tensor], cos_sin_2LK: Tensor, phase_BLGP: Tensor
    ) -> tuple[RotatedHeads, RotatedHeads, Tensor]:
        """Return queries and keys, normalized, content rotated by position and importance by phase, and values."""
        q, k, v = qkv
        turns = phase_BLGP.cos(), phase_BLGP.sin()
        q_BLHK, k_BLGK = (x.unflatten(-1, (-1, self.key_width)) for x in (q, k))
        query = rotate_heads(q_BLHK, self.query_norm, cos_sin_2LK, *map(self.exchange.for_every_head, turns))
        key = rotate_heads(k_BLGK, self.key_norm, cos_sin_2LK, *turns)
        return query, key, v.unflatten(-1, (-1, self.value_width))

    def _query(self, q: RotatedHeads, exponent_BLG: Tensor) -> Tensor:
        """Scale importance by e^exponent and the logit's weight, lambda sqrt(d_h), which SDPA divides by sqrt(d_h)."""
        return scaled_heads(q, self.exchange.for_every_head(exponent_BLG), self._weight())

    def _weight(self) -> Tensor:
        weight_H = self.head_width**0.5 * softplus(upcast(self.exchange.own(self.lambda_raw)))
        return weight_H * self.d_s**-0.5 if self.config.logit_scale == "sqrt_d_s" else weight_H

    def _key(self, k: RotatedHeads, exponent_BSG: Tensor) -> Tensor:
        """Scale importance by e^exponent."""
        return scaled_heads(k, exponent_BSG, self.lambda_raw.new_ones(()))

    def _attend_by_blocks(
        self,
        q: RotatedHeads,
        k: RotatedHeads,
        v_BSGJ: Tensor,
        totals: tuple[Tensor, Tensor],
        positions: tuple[Tensor, Tensor],
        document_BL: Tensor | None,
    ) -> Tensor:
        """Attend a block of queries at a time, the last L of S tokens, with the first one's sum as the anchor.

        totals and positions are the queries', then the keys'. A bounded decay stays within the range inside a block;
        sums of documents that the block does not see are cut off there.
        """
        if self.is_unbounded:
            return self._attend_unbounded(q, k, v_BSGJ, totals, positions, document_BL)
        pieces, length, step = [], totals[0].shape[1], self.block_tokens
        ahead = totals[1].shape[1] - length
        for start in range(0, length, step):
            now, seen = slice(start, start + step), slice(0, ahead + start + step)
            since_BLG, since_BSG = (
                (total[:, part] - self._anchor(totals[0], start, part, document_BL)).clamp(max=2 * self.half_range)
                for total, part in zip(totals, (now, seen), strict=True)
            )
            q_BLHK = self._query(q.at(now), self.half_range - since_BLG)
            k_BSGK = self._key(k.at(seen), since_BSG - self.half_range)
            sees_BLS = self._sees(positions[0][:, now], positions[1][:, seen])
            if document_BL is not None:
                sees_BLS = sees_BLS & self._shares(document_BL[:, now], document_BL[:, seen])
            pieces.append(self._attend_masked(q_BLHK, k_BSGK, v_BSGJ[:, seen], sees_BLS))
        return torch.cat(pieces, dim=1)

    def _attend_unbounded(
        self,
        q: RotatedHeads,
        k: RotatedHeads,
        v_BSGJ: Tensor,
        totals: tuple[Tensor, Tensor],
        positions: tuple[Tensor, Tensor],
        document_BL: Tensor | None,
    ) -> Tensor:
        ahead, block = totals[1].shape[1] - totals[0].shape[1], min(self.block_tokens, totals[0].shape[1])
        place_BNT = in_blocks(positions[0], block)
        own_BNTT = self._sees(place_BNT, place_BNT).tril()
        if document_BL is not None:
            document_BNT = in_blocks(document_BL, block)
            is_first_BN1T = place_BNT[..., None, :] < self.num_first_tokens
            own_BNTT = own_BNTT & ((document_BNT[..., :, None] == document_BNT[..., None, :]) | is_first_BN1T)

        def earlier(start: int, stop: int) -> Tensor:
            now, before = slice(start, stop), slice(0, ahead + start)
            sees_BTE = self._sees(positions[0][:, now], positions[1][:, before])
            if document_BL is None:
                return sees_BTE
            return sees_BTE & self._shares(document_BL[:, now], document_BL[:, before])

        heads = DecayingHeads(
            q,
            RotatedHeads(*map(self.exchange.for_every_head, k)),
            self.exchange.for_every_head(v_BSGJ),
            self.exchange.for_every_head(totals[0]),
            self.exchange.for_every_head(totals[1]),
            (self._weight(), self.lambda_raw.new_ones(())),
            self.scale,
        )
        return attend_unbounded(heads, own_BNTT, earlier).flatten(2)

    def _anchor(self, total_BLG: Tensor, start: int, part: slice, document_BL: Tensor | None) -> Tensor:
        """Return the sum at a block's first query, for all; where documents have their own sums, 0 for all others'."""
        anchor_B1G = total_BLG[:, start : start + 1]
        if document_BL is None or self.num_first_tokens:
            return anchor_B1G
        return anchor_B1G * (document_BL[:, part] == document_BL[:, start : start + 1])[..., None]

    @torch.no_grad()
    def initialise(self, rows: Tensor, std: float) -> None:
        """Initialise as SISA does: narrower phases in these rows of the projection, constant decay bias and lambda."""
        super().initialise(rows, std)
        if self.num_phases:
            rows[-self.widths[-1] :].mul_(self.config.phase_init_std / std)
        if self.config.has_learned_decay:
            self.decay_bias.fill_(self.config.decay_bias_init)
        self.lambda_raw.fill_(self.config.lambda_raw_init)
