"""Augmented heads: queries and keys that carry SISA's importance term, or a bias, in extra channels.

Shapes: B batch, L length, D width, H heads, C channels of a head [content | importance], K of content, J of values,
P = d_s / 2 phases.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from sisa_scale.config.model import ModelConfig
from sisa_scale.models.kernels.fused_linear import FusedLinear
from sisa_scale.models.kernels.materialize import materialize_cos_sin
from sisa_scale.models.mixers.head_norm import HeadNorm
from sisa_scale.models.mixers.importance import (
    RotatedHeads,
    alibi_slopes,
    bias_channels,
    bounded_decay,
    rotate_heads,
    scaled_heads,
)
from sisa_scale.models.precision import upcast
from sisa_scale.models.row_parts import RowPart, augmented_parts
from sisa_scale.models.sequence_parallel import HeadExchange


class AugmentedHeads(nn.Module):
    """The parameters of the SISA mixer and what they give. Parameters that a control drops are None."""

    decay_bias: nn.Parameter
    lambda_raw: nn.Parameter

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        assert config.sisa is not None
        self.config = config.sisa
        self.num_heads, self.head_width = config.num_heads, config.head_width
        self.d_s = self.config.d_s_of(layer) if self.config.has_importance else 0
        self.num_phases = self.d_s // 2 if self.config.has_rotation else 0
        self.form = self.config.form_at(config.num_positions, config.trained_positions)
        self.decay_limit = self.config.decay_limit(config.trained_positions)
        self.is_unbounded = self.config.is_unbounded(config.trained_positions)
        self.block_tokens = self.config.queries_per_call(config.trained_positions)
        has_decay, has_importance = self.config.has_learned_decay, self.config.has_importance

        # One product gives [q | k | v | decay | phase], with queries and keys of heads [content | importance].
        per_head = [self.head_width + self.d_s] * 2 + [self.head_width, int(has_decay), self.num_phases]
        self.project = FusedLinear(config.d_model, [self.num_heads * width for width in per_head])
        for name, is_there in {"decay_bias": has_decay, "lambda_raw": has_importance}.items():
            self.register_parameter(name, nn.Parameter(torch.empty(self.num_heads)) if is_there else None)
        self.query_norm, self.key_norm = HeadNorm(config), HeadNorm(config)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)
        self.exchange = HeadExchange()

    def row_parts(self) -> dict[str, dict[str, RowPart]]:
        """Return the parts of the projection."""
        heads = self.num_heads
        return {"project.weight": augmented_parts(self.project.widths, heads, heads, self.head_width)}

    def projected(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return queries and keys, (B, L, H, C), values, (B, L, H, J), and what `rates` does."""
        *qkv, decay_BLH, phase_BLC = self.exchange.to_heads(self.project(x_BLD))
        num_heads = self.num_heads // self.exchange.size
        q_BLHC, k_BLHC, v_BLHJ = (x.unflatten(-1, (num_heads, -1)) for x in qkv)
        phase_BLC = upcast(phase_BLC)
        if self.config.has_learned_decay:
            decay_BLH = bounded_decay(upcast(decay_BLH), self.exchange.own(self.decay_bias), self.decay_limit)
        else:
            make = alibi_slopes if self.config.decay_kind == "alibi" else torch.zeros
            slopes_H = self.exchange.own(make(self.num_heads, device=x_BLD.device))
            decay_BLH = slopes_H.to(phase_BLC.dtype).expand(*v_BLHJ.shape[:2], -1)
        return q_BLHC, k_BLHC, v_BLHJ, decay_BLH, phase_BLC

    def rates(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decay of every token and head in nats, (B, L, H), and its phase steps in radians, (B, L, H P).

        The decay is softplus(z); in single_call it is smoothly bounded by the limit that keeps the constant anchor
        exact. Without a learned decay it is constant, without rotation there are no phases.
        """
        return self.projected(x_BLD)[3:]

    def rotate(
        self, q_BLHC: Tensor, k_BLHC: Tensor, cos_sin_2LK: Tensor, phase_BLHP: Tensor
    ) -> tuple[RotatedHeads, RotatedHeads]:
        """Normalize what the model normalizes, and rotate content by position and importance by phase."""
        cos, sin = materialize_cos_sin(phase_BLHP)
        q = rotate_heads(q_BLHC, self.query_norm, cos_sin_2LK, cos, sin)
        return q, rotate_heads(k_BLHC, self.key_norm, cos_sin_2LK, cos, sin)

    def weight(self) -> Tensor:
        """Return the square root of the importance logit's weight per head, for either side."""
        # sqrt(d_h)^(1/2) on both sides undoes the 1/sqrt(d_h) that SDPA applies to every channel.
        weight_H = (self.head_width**0.25) * softplus(self.exchange.own(self.lambda_raw)).sqrt()
        return weight_H * self.d_s**-0.25 if self.config.logit_scale == "sqrt_d_s" else weight_H

    def scaled(
        self, q: RotatedHeads, k: RotatedHeads, exponent_BLH: Tensor, num_zeros: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return queries with e^exponent and keys with e^-exponent in their importance channels, (B, L, H, C).

        `num_zeros` channels of zeros follow.
        """
        weight_H = self.weight()
        return scaled_heads(q, exponent_BLH, weight_H, num_zeros), scaled_heads(k, -exponent_BLH, weight_H, num_zeros)

    def biased(self, q: RotatedHeads, k: RotatedHeads, g_BLH: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and keys with channels that add g_i - g_j to the logit."""
        dtype = q.content_BLHK.dtype
        bias = bias_channels(g_BLH.to(torch.promote_types(dtype, torch.float32)), self.head_width)
        q_BLHC, k_BLHC = (
            torch.cat((heads.content_BLHK, bias_BLHC.to(dtype)), dim=-1)
            for heads, bias_BLHC in zip((q, k), bias, strict=True)
        )
        return q_BLHC, k_BLHC

    @torch.no_grad()
    def initialise(self, std: float, generator: torch.Generator) -> None:
        """Initialise as the paper does: projections N(0, std^2), phases narrower, constant decay bias and lambda."""
        for linear in (self.project, self.out):
            nn.init.normal_(linear.weight, std=std, generator=generator)
        *_, phase_rows = self.project.rows()
        phase_rows.mul_(self.config.phase_init_std / std)
        for parameter, value in (
            (self.decay_bias, self.config.decay_bias_init),
            (self.lambda_raw, self.config.lambda_raw_init),
        ):
            if parameter is not None:
                parameter.fill_(value)
        self.query_norm.initialise()
        self.key_norm.initialise()
