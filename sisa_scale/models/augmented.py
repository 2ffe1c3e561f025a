"""Augmented heads: queries and keys that carry SISA's importance term, or a bias, in extra channels.

Shapes: B batch, L length, D width, H heads, C channels, K channels of an augmented head, S = d_s / 2 phases.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from sisa_scale.config.model import ModelConfig
from sisa_scale.models.importance import alibi_slopes, bias_channels, channel_scale
from sisa_scale.models.precision import widen
from sisa_scale.models.rotary import rotate


class AugmentedHeads(nn.Module):
    """The parameters of the SISA mixer and what they give. Parameters that a control drops are None."""

    dynamics: nn.Linear
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
        # An outgrown bound holds over as many tokens as it was made for, so no block is longer.
        self.block_tokens = min(self.config.block_tokens, config.trained_positions)
        self.content_factor = config.attention_factor
        has_decay, has_importance = self.config.has_learned_decay, self.config.has_importance

        # Queries and keys come out of one product as [content; importance] heads: nothing is copied together later.
        self.key_width = self.head_width + self.d_s
        augmented = self.num_heads * self.key_width
        self.qkv = nn.Linear(config.d_model, 2 * augmented + config.d_model, bias=False)
        self.num_dynamics = self.num_heads * (has_decay + self.num_phases)
        dynamics = nn.Linear(config.d_model, self.num_dynamics, bias=False) if self.num_dynamics else None
        self.register_module("dynamics", dynamics)
        per_head = {"decay_bias": has_decay, "lambda_raw": has_importance}
        for name, is_there in per_head.items():
            self.register_parameter(name, nn.Parameter(torch.empty(self.num_heads)) if is_there else None)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def rates(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decay of every token and head in nats, (B, L, H), and its phase steps in radians, (B, L, H S).

        The decay is softplus(z); in single_call it is smoothly bounded by the limit that keeps the constant anchor
        exact. Without a learned decay it is constant, without rotation there are no phases.
        """
        has_decay, heads = self.config.has_learned_decay, self.num_heads
        raw = self.dynamics(x_BLD) if self.num_dynamics else x_BLD[..., :0]
        raw, phase = widen(raw).split([heads * has_decay, heads * self.num_phases], dim=-1)
        if not has_decay:
            is_alibi = self.config.decay_kind == "alibi"
            slopes_H = alibi_slopes(heads, raw.device) if is_alibi else torch.zeros(heads, device=raw.device)
            return slopes_H.to(raw.dtype).expand(*x_BLD.shape[:-1], heads), phase
        decay_BLH = softplus(raw + self.decay_bias)
        if self.decay_limit == math.inf:
            return decay_BLH, phase
        return self.decay_limit * torch.tanh(decay_BLH / self.decay_limit), phase

    def project(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys of augmented heads, and values."""
        augmented = self.num_heads * self.key_width
        q, k, v = self.qkv(x_BLD).split([augmented, augmented, x_BLD.shape[-1]], dim=-1)
        return self.per_head(q, self.key_width), self.per_head(k, self.key_width), self.per_head(v, self.head_width)

    def per_head(self, x_BLC: Tensor, width: int) -> Tensor:
        """Return (B, L, H width) as (B, L, H, width)."""
        return x_BLC.view(*x_BLC.shape[:-1], self.num_heads, width)

    def rotate(self, q_BLHK: Tensor, k_BLHK: Tensor, angles: Tensor, phase_BLHS: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate content pairs by position and importance pairs by phase, at once.

        The attention factor of scaled positions is the content's alone: both kinds share the scale of the attention.
        """
        heads = phase_BLHS.shape[:-1]
        if not self.num_phases:
            phase_BLHS = phase_BLHS.new_zeros(()).expand(*heads, self.d_s // 2)
        content = angles.unsqueeze(-2).expand(*heads, self.head_width // 2)
        angles_BLHK = torch.cat((content, phase_BLHS), dim=-1)
        cos, sin = angles_BLHK.cos(), angles_BLHK.sin()
        if self.content_factor != 1.0:
            factor_K = angles_BLHK.new_ones(angles_BLHK.shape[-1])
            factor_K[: self.head_width // 2] = self.content_factor
            cos, sin = cos * factor_K, sin * factor_K
        return rotate(q_BLHK, cos, sin), rotate(k_BLHK, cos, sin)

    def weight(self) -> Tensor:
        """Return the square root of the importance logit's weight per head, for either side."""
        # sqrt(d_h)^(1/2) on both sides undoes the 1/sqrt(d_h) that SDPA applies to every channel.
        weight_H = (self.head_width**0.25) * softplus(self.lambda_raw).sqrt()
        return weight_H * self.d_s**-0.25 if self.config.logit_scale == "sqrt_d_s" else weight_H

    def scale(self, exponent_BLH: Tensor, weight_H: Tensor) -> Tensor:
        """Return the scale of every channel, (B, L, H, K): 1 for content, weight e^exponent for importance."""
        return channel_scale(exponent_BLH, weight_H, self.head_width // 2, self.d_s // 2)

    def scaled(self, q_BLHK: Tensor, k_BLHK: Tensor, exponent_BLH: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries with e^exponent and keys with e^-exponent in their importance channels."""
        weight_H = self.weight()
        return q_BLHK * self.scale(exponent_BLH, weight_H), k_BLHK * self.scale(-exponent_BLH, weight_H)

    def biased(self, q_BLHK: Tensor, k_BLHK: Tensor, g_BLH: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and keys with channels that add g_i - g_j to the logit."""
        q_bias, k_bias = bias_channels(g_BLH.to(q_BLHK.dtype), self.head_width)
        return torch.cat((q_BLHK, q_bias), dim=-1), torch.cat((k_BLHK, k_bias), dim=-1)

    @torch.no_grad()
    def initialise(self, std: float, generator: torch.Generator) -> None:
        """Initialise as the paper does: projections N(0, std^2), phases narrower, constant decay bias and lambda."""
        for linear in (self.qkv, self.out, self.dynamics):
            if linear is not None:
                nn.init.normal_(linear.weight, std=std, generator=generator)
        if self.num_phases:
            first_phase = self.num_heads * self.config.has_learned_decay
            self.dynamics.weight[first_phase:].mul_(self.config.phase_init_std / std)
        for parameter, value in (
            (self.decay_bias, self.config.decay_bias_init),
            (self.lambda_raw, self.config.lambda_raw_init),
        ):
            if parameter is not None:
                parameter.fill_(value)
