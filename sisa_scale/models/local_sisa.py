"""SISA's importance term (see models.sisa) in attention with grouped keys and values, a window and first tokens.

    logit_ij = q_i^h . k_j^g / sqrt(d_h) + lambda^h exp(g_i^g - g_j^g) (R(phi_i^g) C_i^h) . (R(phi_j^g) B_j^g)

Query head h reads the keys and values of its group g. What a key carries is the group's: B, the decay and the phase;
what a query carries is the head's: C and lambda. So the keys that the heads of a group share stay shared, and with as
many groups as heads this is SISA. Meta tokens decay and turn like all others. A window leaves out keys and changes no
logit, since the logit depends on differences alone.

The forms are SISA's: single_call has a constant anchor and a bounded decay, over all positions including the meta
tokens; query_blocks an anchor per block of queries. The cache keeps rotated keys without their decay, and its sums.

Weights beyond the path's without SISA, a layer: d H d_s (C) + d G (d_s + d_s / 2 + 1) (B, phase, decay) in the
projection, and H (lambda) + G (decay bias), less what a control drops.

Shapes: as in local_attention, with K = d_h + d_s; P = d_s / 2 phases of a group.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from sisa_scale.config.model import ModelConfig
from sisa_scale.models.importance import channel_scale
from sisa_scale.models.local_attention import AttentionCache, LocalAttention
from sisa_scale.models.precision import widen
from sisa_scale.models.rotary import rotate
from sisa_scale.models.scan import prefix_sum


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
    """The attention path with importance: reads [q | k | v | decay | phase], queries and keys [content; importance]."""

    decay_bias: nn.Parameter

    def __init__(self, model: ModelConfig, backend: str, layer: int) -> None:
        super().__init__(model, backend, layer)
        config = model.sisa
        assert config is not None
        self.config = config
        self.d_s = config.d_s_of(layer)
        self.num_phases = self.d_s // 2 if config.has_rotation else 0
        self.key_width = self.head_width + self.d_s
        self.content_factor, self.scale = model.attention_factor, self.head_width**-0.5
        self.form = config.form_at(model.num_positions, model.trained_positions)
        self.decay_limit = config.decay_limit(model.trained_positions)
        self.block_tokens = min(config.block_tokens, model.trained_positions)
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

    def rates(self, qkv_BLC: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decay of every token and group in nats, (B, L, G), and its phase steps in radians, (B, L, G P)."""
        decay, phase = widen(qkv_BLC).split(self.widths, dim=-1)[3:]
        if not self.config.has_learned_decay:
            return decay.new_zeros(()).expand(*decay.shape[:-1], self.kv_heads), phase
        decay_BLG = softplus(decay + self.decay_bias)
        if self.decay_limit == math.inf:
            return decay_BLG, phase
        return self.decay_limit * torch.tanh(decay_BLG / self.decay_limit), phase

    def forward(self, qkv_BLC: Tensor, angles_LK: Tensor, document_BL: Tensor | None = None) -> Tensor:
        """Return (B, L, H J); angles_LK are the position angles of the d_h / 2 content pairs in radians.

        document_BL numbers the document of every token; a token sees its own document's and the first tokens alone.
        """
        total_BLG, phase_BLGP = self._sums(*self.rates(qkv_BLC), is_long=self.form == "query_blocks")
        q_BLHK, k_BLGK, v_BLGJ = self._augmented(qkv_BLC, angles_LK, phase_BLGP)
        if self.form == "query_blocks":
            position_1L = torch.arange(qkv_BLC.shape[1], device=qkv_BLC.device)[None]
            totals, positions = (total_BLG, total_BLG), (position_1L, position_1L)
            return self._attend_by_blocks(q_BLHK, k_BLGK, v_BLGJ, totals, positions, document_BL)
        exponent_BLG = self.half_range - total_BLG
        return self._attend(self._query(q_BLHK, exponent_BLG), self._key(k_BLGK, -exponent_BLG), v_BLGJ, document_BL)

    def extend(
        self, qkv_BLC: Tensor, cache: AttentionCache, angles_BLK: Tensor, is_token_BL: Tensor | None = None
    ) -> Tensor:
        """Return what `forward` would for these L tokens after those in the cache; the cache then holds them, too."""
        assert isinstance(cache, LocalSisaCache)
        decay_BLG, phase_BLC = self.rates(qkv_BLC)
        if is_token_BL is not None:
            decay_BLG = decay_BLG.masked_fill(~is_token_BL[..., None], 0.0)
            phase_BLC = phase_BLC.masked_fill(~is_token_BL[..., None], 0.0)
        total_BLG, phase_BLGP = self._sums(decay_BLG, phase_BLC, is_long=True)
        total_BLG, phase_BLGP = total_BLG + cache.last_BG[:, None], phase_BLGP + cache.phase_BGP[:, None]
        cache.last_BG, cache.phase_BGP = total_BLG[:, -1], phase_BLGP[:, -1].remainder(2 * math.pi)
        q_BLHK, k_BLGK, v_BLGJ = self._augmented(qkv_BLC, angles_BLK, phase_BLGP)
        positions = (self._append(cache, k_BLGK.to(v_BLGJ.dtype), v_BLGJ, is_token_BL), cache.position_BS)
        cache.total_BSG = torch.cat((cache.total_BSG, total_BLG), 1)
        totals = (total_BLG, cache.total_BSG)
        out = self._attend_by_blocks(q_BLHK, cache.keys_BSGK, cache.values_BSGJ, totals, positions, None)
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

    def _sums(self, decay_BLG: Tensor, phase_BLC: Tensor, *, is_long: bool) -> tuple[Tensor, Tensor]:
        """Return the sums of the decays, and the phases (B, L, G, P); is_long: small differences of them are used."""
        with torch.autocast(decay_BLG.device.type, enabled=False):
            rates_BLC = torch.cat((decay_BLG, phase_BLC), dim=-1)
            sums_BLC = prefix_sum(rates_BLC.double() if is_long else rates_BLC)
        total_BLG, sums_BLC = sums_BLC.split([self.kv_heads, phase_BLC.shape[-1]], dim=-1)
        return total_BLG, sums_BLC.to(phase_BLC.dtype).unflatten(-1, (self.kv_heads, self.num_phases))

    def _augmented(self, qkv_BLC: Tensor, angles: Tensor, phase_BLGP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys, content rotated by position and importance by phase, and values."""
        q, k, v = qkv_BLC.split(self.widths, dim=-1)[:3]
        heads = phase_BLGP.shape[:-1]
        if not self.num_phases:
            phase_BLGP = phase_BLGP.new_zeros(()).expand(*heads, self.d_s // 2)
        content = angles.unsqueeze(-2).expand(*heads, self.head_width // 2)
        angles_BLGK = torch.cat((content, phase_BLGP), dim=-1)
        cos, sin = angles_BLGK.cos(), angles_BLGK.sin()
        if self.content_factor != 1.0:
            factor_K = cos.new_ones(cos.shape[-1])
            factor_K[: self.head_width // 2] = self.content_factor
            cos, sin = cos * factor_K, sin * factor_K
        q_BLHK = rotate(q.unflatten(-1, (self.num_heads, -1)), self._for_every_head(cos), self._for_every_head(sin))
        k_BLGK = rotate(k.unflatten(-1, (self.kv_heads, -1)), cos, sin)
        return q_BLHK, k_BLGK, v.unflatten(-1, (self.kv_heads, -1))

    def _query(self, q_BLHK: Tensor, exponent_BLG: Tensor) -> Tensor:
        """Scale importance by e^exponent and the logit's weight, lambda sqrt(d_h), which SDPA divides by sqrt(d_h)."""
        weight_H = self.head_width**0.5 * softplus(widen(self.lambda_raw))
        if self.config.logit_scale == "sqrt_d_s":
            weight_H = weight_H * self.d_s**-0.5
        return self._scaled(q_BLHK, self._for_every_head(exponent_BLG[..., None])[..., 0], weight_H)

    def _key(self, k_BSGK: Tensor, exponent_BSG: Tensor) -> Tensor:
        """Scale importance by e^exponent."""
        return self._scaled(k_BSGK, exponent_BSG, self.lambda_raw.new_ones(()))

    def _scaled(self, x_BLHK: Tensor, exponent_BLH: Tensor, weight_H: Tensor) -> Tensor:
        return x_BLHK * channel_scale(exponent_BLH, weight_H, self.head_width // 2, self.d_s // 2)

    def _attend(self, q_BLHK: Tensor, k_BLGK: Tensor, v_BLGJ: Tensor, document_BL: Tensor | None) -> Tensor:
        return super()._attend(q_BLHK.to(v_BLGJ.dtype), k_BLGK.to(v_BLGJ.dtype), v_BLGJ, document_BL)

    def _attend_by_blocks(
        self,
        q_BLHK: Tensor,
        k_BSGK: Tensor,
        v_BSGJ: Tensor,
        totals: tuple[Tensor, Tensor],
        positions: tuple[Tensor, Tensor],
        document_BL: Tensor | None,
    ) -> Tensor:
        """Attend a block of queries at a time, the last L of S tokens, with the first one's sum as the anchor.

        totals and positions are the queries', then the keys'. Inside a block the decay saturates at the range.
        """
        pieces, ahead, step = [], k_BSGK.shape[1] - q_BLHK.shape[1], self.block_tokens
        for start in range(0, q_BLHK.shape[1], step):
            now, seen = slice(start, start + step), slice(0, ahead + start + step)
            anchor_B1G = totals[0][:, start : start + 1]
            since_BLG, since_BSG = (
                (total[:, part] - anchor_B1G).clamp(max=2 * self.half_range)
                for total, part in zip(totals, (now, seen), strict=True)
            )
            q = self._query(q_BLHK[:, now], self.half_range - since_BLG).to(v_BSGJ.dtype)
            k = self._key(k_BSGK[:, seen], since_BSG - self.half_range).to(v_BSGJ.dtype)
            sees_BLS = self._sees(positions[0][:, now], positions[1][:, seen])
            if document_BL is not None:
                sees_BLS = sees_BLS & self._shares(document_BL[:, now], document_BL[:, seen])
            pieces.append(self._attend_masked(q, k, v_BSGJ[:, seen], sees_BLS))
        return torch.cat(pieces, dim=1)

    @torch.no_grad()
    def initialise(self, rows: Tensor, std: float) -> None:
        """Initialise as SISA does: narrower phases in these rows of the projection, constant decay bias and lambda."""
        if self.num_phases:
            rows[-self.widths[-1] :].mul_(self.config.phase_init_std / std)
        if self.config.has_learned_decay:
            self.decay_bias.fill_(self.config.decay_bias_init)
        self.lambda_raw.fill_(self.config.lambda_raw_init)
