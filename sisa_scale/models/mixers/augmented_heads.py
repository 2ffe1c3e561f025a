"""Augmented heads: queries and keys that carry SISA's importance term, or a bias, in extra channels.

Query heads may share keys in groups (see `grouped_heads`). What a key carries is then the group's: B, the decay and the
phase; what a query carries is the head's: C and lambda.

Shapes: B batch, L length, D width, H heads, G groups that share keys and values, C channels of a head [content |
importance], K of content, J of values, P = d_s / 2 phases.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from sisa_scale.config.model import ModelConfig
from sisa_scale.models.kernels.fused_linear import FusedLinear
from sisa_scale.models.kernels.materialize import materialize_cos_sin
from sisa_scale.models.mixers.grouped_heads import GroupedHeads
from sisa_scale.models.mixers.head_norm import HeadNorm
from sisa_scale.models.mixers.importance import (
    RotatedHeads,
    alibi_slopes,
    bias_channels,
    bounded_decay,
    decayed_heads,
    rotate_heads,
    scaled_heads,
)
from sisa_scale.models.precision import upcast
from sisa_scale.models.row_parts import RowPart, augmented_parts


class AugmentedHeads(nn.Module):
    """The parameters of the SISA mixer and what they give. Parameters that a control drops are None."""

    decay_bias: nn.Parameter
    lambda_raw: nn.Parameter

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        assert config.sisa is not None
        self.config = config.sisa
        self.num_heads, self.kv_heads, self.head_width = config.num_heads, config.kv_heads, config.head_width
        self.d_s = self.config.d_s_of(layer) if self.config.has_importance else 0
        self.num_phases = self.d_s // 2 if self.config.has_rotation else 0
        self.form = self.config.form_at(config.num_positions, config.trained_positions)
        self.decay_limit = self.config.decay_limit(config.trained_positions)
        self.is_unbounded = self.config.is_unbounded(config.trained_positions)
        self.block_tokens = self.config.queries_per_call(config.trained_positions)
        has_importance = self.config.has_importance
        self.is_scaled = has_importance or self.config.decay_kind == "channels"  # else biased

        # One product gives [q | k | v | decay | phase | gate], with queries and keys of heads [content | importance].
        num_decays, key_width = self.config.decay_channels(self.head_width), self.head_width + self.d_s
        per_group = [self.kv_heads * n for n in (key_width, self.head_width, num_decays, self.num_phases)]
        self.widths = [self.num_heads * key_width, *per_group, config.gate_width]
        self.project = FusedLinear(config.d_model, self.widths)
        sizes = {"decay_bias": self.kv_heads * num_decays, "lambda_raw": self.num_heads * has_importance}
        for name, size in sizes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(size)) if size else None)
        self.query_norm, self.key_norm = HeadNorm(config), HeadNorm(config)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)
        self.exchange = GroupedHeads(self.num_heads, self.kv_heads)

    def row_parts(self) -> dict[str, dict[str, RowPart]]:
        """Return the parts of the projection."""
        return {"project.weight": augmented_parts(self.widths, self.num_heads, self.kv_heads, self.head_width)}

    def projected(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return queries, (B, L, H, C), keys, (B, L, G, C), values, (B, L, G, J), what `rates` does, and the gate.

        The gate is that of this worker's tokens, where workers share a sequence.
        """
        of_queries, *of_keys, gate_BLC = self.project(x_BLD).split(self.widths, dim=-1)
        *qkv, decay_BLG, phase_BLC = self.exchange.to_groups((of_queries,), of_keys)
        own_heads = self.num_heads // self.exchange.size, *[self.exchange.own_kv_heads] * 2
        q_BLHC, k_BLGC, v_BLGJ = (x.unflatten(-1, (heads, -1)) for x, heads in zip(qkv, own_heads, strict=True))
        phase_BLC = upcast(phase_BLC)
        if self.config.has_learned_decay:
            decay_BLG = bounded_decay(upcast(decay_BLG), self.exchange.of_groups(self.decay_bias), self.decay_limit)
        else:
            make = alibi_slopes if self.config.decay_kind == "alibi" else torch.zeros
            slopes_G = self.exchange.of_groups(make(self.kv_heads, device=x_BLD.device))
            decay_BLG = slopes_G.to(phase_BLC.dtype).expand(*v_BLGJ.shape[:2], -1)
        return q_BLHC, k_BLGC, v_BLGJ, decay_BLG, phase_BLC, gate_BLC

    def rates(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decay of every token and group in nats, (B, L, G), and its phase steps in radians, (B, L, G P).

        With decay_kind channels the decay is that of every channel, (B, L, G K).

        The decay is softplus(z); in single_call it is smoothly bounded by the limit that keeps the constant anchor
        exact. Without a learned decay it is constant, without rotation there are no phases.
        """
        return self.projected(x_BLD)[3:5]

    def rotate(
        self, q_BLHC: Tensor, k_BLGC: Tensor, cos_sin_2LK: Tensor, phase_BLGP: Tensor
    ) -> tuple[RotatedHeads, RotatedHeads]:
        """Normalize what the model normalizes, and rotate content by position and importance by phase."""
        turns = materialize_cos_sin(phase_BLGP)
        q = rotate_heads(q_BLHC, self.query_norm, cos_sin_2LK, *map(self.exchange.for_every_head, turns))
        return q, rotate_heads(k_BLGC, self.key_norm, cos_sin_2LK, *turns)

    def weight(self) -> Tensor:
        """Return the square root of the importance logit's weight per head, for either side."""
        # sqrt(d_h)^(1/2) on both sides undoes the 1/sqrt(d_h) that SDPA applies to every channel.
        weight_H = (self.head_width**0.25) * softplus(self.exchange.own(self.lambda_raw)).sqrt()
        return weight_H * self.d_s**-0.25 if self.config.logit_scale == "sqrt_d_s" else weight_H

    def weights(self) -> tuple[Tensor, Tensor]:
        """Return what importance channels are multiplied by: queries, and keys. Shared keys leave all to queries."""
        weight_H = self.weight()
        if self.kv_heads == self.num_heads:
            return weight_H, weight_H
        return weight_H.square(), weight_H.new_ones(())

    def scaled(
        self, q: RotatedHeads, k: RotatedHeads, exponent_BLG: Tensor, num_zeros: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return queries, (B, L, H, C), and keys, (B, L, G, C), with e^exponent and e^-exponent in what decays.

        That is importance, which `num_zeros` channels of zeros follow, or with decay_kind channels all content.
        """
        return self.scaled_queries(q, exponent_BLG, num_zeros), self.scaled_keys(k, -exponent_BLG, num_zeros)

    def scaled_queries(self, q: RotatedHeads, exponent_BLG: Tensor, num_zeros: int = 0) -> Tensor:
        """Return queries with e^exponent, (B, L, G) or (B, L, G K), in what decays."""
        if self.config.decay_kind == "channels":
            exponent_BLGK = exponent_BLG.unflatten(-1, (-1, self.head_width))
            return decayed_heads(q, self.exchange.for_every_head(exponent_BLGK).flatten(-2))
        return scaled_heads(q, self.exchange.for_every_head(exponent_BLG), self.weights()[0], num_zeros)

    def scaled_keys(self, k: RotatedHeads, exponent_BLG: Tensor, num_zeros: int = 0) -> Tensor:
        """Return keys with e^exponent in what decays."""
        if self.config.decay_kind == "channels":
            return decayed_heads(k, exponent_BLG)
        return scaled_heads(k, exponent_BLG, self.weights()[1], num_zeros)

    def biased(self, q: RotatedHeads, k: RotatedHeads, g_BLG: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and keys with channels that add g_i - g_j to the logit."""
        dtype = q.content_BLHK.dtype
        of_query, of_key = bias_channels(g_BLG.to(torch.promote_types(dtype, torch.float32)), self.head_width)
        bias = self.exchange.for_every_head(of_query), of_key
        q_BLHC, k_BLGC = (
            torch.cat((heads.content_BLHK, bias_BLHC.to(dtype)), dim=-1)
            for heads, bias_BLHC in zip((q, k), bias, strict=True)
        )
        return q_BLHC, k_BLGC

    @torch.no_grad()
    def initialise(self, std: float, generator: torch.Generator) -> None:
        """Initialise as the paper does: projections N(0, std^2), phases narrower, constant decay bias and lambda."""
        for linear in (self.project, self.out):
            nn.init.normal_(linear.weight, std=std, generator=generator)
        *_, phase_rows, _ = self.project.rows()
        phase_rows.mul_(self.config.phase_init_std / std)
        for parameter, value in (
            (self.decay_bias, self.config.decay_bias_init),
            (self.lambda_raw, self.config.lambda_raw_init),
        ):
            if parameter is not None:
                parameter.fill_(value)
        self.query_norm.initialise()
        self.key_norm.initialise()
