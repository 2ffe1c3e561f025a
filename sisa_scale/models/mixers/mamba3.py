"""Mamba-3 (ICLR 2026): exponential-trapezoidal recurrence, data-dependent rotation, and several ranks (MIMO).

    h_t = a_t h_{t-1} + (1 - u_t) Delta_t a_t k_{t-1} v_{t-1}^T + u_t Delta_t k_t v_t^T,    y_t = q_t^T h_t + D v_t

with a_t = exp(-A_t Delta_t), trapezoid weight u_t, and keys and queries turned by the running phase. With rank R, k, v
and q have R rows a token: the state sums their products, and y has R rows that are gated and summed.

A token enters the state twice: with u_t Delta_t at once, with (1 - u_{t+1}) Delta_{t+1} one token later. For later
queries the two add up to one weight, for its own output the first alone counts: the two weights of an SSD's token.

Shapes: B batch, L length, D width, I = H P inner width, R rank, H heads, P head width, N state width, A angles.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu, softplus

from sisa_scale.config.mixers.mamba import Mamba3Config
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.block import RMSNorm
from sisa_scale.models.kernels.fused_linear import FusedLinear
from sisa_scale.models.kernels.prefix_sum import prefix_sum
from sisa_scale.models.kernels.ssd import TokenWeights, ssd
from sisa_scale.models.mixers.mamba2 import NORM_EPSILON
from sisa_scale.models.mixers.mamba3_rotary import turned_heads
from sisa_scale.models.mixers.ssm_path import initialise_dt_bias
from sisa_scale.models.precision import upcast
from sisa_scale.models.row_parts import RowPart, stacked
from sisa_scale.models.sequence_parallel import HeadExchange

DECAY_FLOOR = 1e-4


@dataclass(slots=True)
class Mamba3Cache:
    """What the tokens so far leave behind: states, phases modulo 2 pi, and the last token's keys and values."""

    state_BHNP: Tensor
    phase_BHA: Tensor
    keys_BRHN: Tensor
    values_BRHP: Tensor


class Mamba3(nn.Module):
    """The mixer. Its rotation takes the place of positions, its trapezoid that of the convolution.

    Per-head biases and MIMO scales are stored flat: like every vector they are exempt from weight decay.
    """

    def __init__(self, d_model: int, config: Mamba3Config) -> None:
        super().__init__()
        for violation in config.width_violations(d_model):
            raise ValueError(f"{violation.key} {violation.found}: {violation.allowed}. {violation.remedy}")
        self.config, self.rank = config, config.mimo_rank
        self.num_heads, inner = config.num_heads(d_model), config.inner_width(d_model)
        state = self.rank * config.state_width
        self.widths = [inner, inner, state, state] + [self.num_heads] * 3 + [config.num_angles]
        self.project = FusedLinear(d_model, self.widths)
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads))
        self.key_norm = RMSNorm(config.state_width, NORM_EPSILON)
        self.query_norm = RMSNorm(config.state_width, NORM_EPSILON)
        self.key_bias = nn.Parameter(torch.empty(self.num_heads * state))
        self.query_bias = nn.Parameter(torch.empty(self.num_heads * state))
        self.skip = nn.Parameter(torch.empty(self.num_heads))
        is_mimo = self.rank > 1
        self.value_scale = nn.Parameter(torch.empty(self.rank * inner)) if is_mimo else None
        self.gate_scale = nn.Parameter(torch.empty(self.rank * inner)) if is_mimo else None
        self.out_scale = nn.Parameter(torch.empty(self.rank * inner)) if is_mimo else None
        self.out = nn.Linear(inner, d_model, bias=False)
        self.exchange = HeadExchange()

    @classmethod
    def build(cls, model: ModelConfig, layer: int, attention_backend: str) -> Self:
        """Return the mixer of a layer."""
        assert model.mamba3 is not None
        return cls(model.d_model, model.mamba3)

    def row_parts(self) -> dict[str, dict[str, RowPart]]:
        """Return the parts of the projection."""
        names = ("z", "x", "keys", "queries", "dt", "rate", "trapezoid", "angle")
        return {"project.weight": stacked(dict(zip(names, self.widths, strict=True)))}

    def forward(self, x_BLD: Tensor, cos_sin_2LK: Tensor, document_BL: Tensor | None = None) -> Tensor:
        """Mix along the length; cos_sin_2LK, the positions of other mixers, go unused.

        document_BL numbers the document of every token: each is read as if alone.
        """
        return self._mix(x_BLD, None, None, document_BL)

    @torch.no_grad()
    def extend(
        self, x_BLD: Tensor, cache: Mamba3Cache, cos_sin_2BLK: Tensor, is_token_BL: Tensor | None = None
    ) -> Tensor:
        """Return what `forward` would for these L tokens after those in the cache; the cache then holds them, too.

        cos_sin_2BLK go unused. False in is_token_BL marks padding before the first token of a row; it has no influence.
        """
        return self._mix(x_BLD, cache, is_token_BL, None)

    def new_cache(self, batch: int, device: torch.device, dtype: torch.dtype) -> Mamba3Cache:
        """Return the cache of rows that hold no token yet; `dtype` is that of the projections' results."""
        zeros = torch.zeros((), device=device, dtype=dtype)
        heads, state, width = self.num_heads, self.config.state_width, self.config.head_width
        return Mamba3Cache(
            state_BHNP=upcast(zeros).new_zeros(batch, heads, state, width),
            phase_BHA=upcast(zeros).new_zeros(batch, heads, self.config.num_angles),
            keys_BRHN=upcast(zeros).new_zeros(batch, self.rank, heads, state),
            values_BRHP=zeros.new_zeros(batch, self.rank, heads, width),
        )

    def _mix(
        self, x_BLD: Tensor, cache: Mamba3Cache | None, is_token_BL: Tensor | None, document_BL: Tensor | None
    ) -> Tensor:
        z, x, keys, queries, dt, rate, trapezoid, angle = self.project(x_BLD).split(self.widths, dim=-1)
        z_BLI, x_BLI, dt_BLH, rate_BLH, trapezoid_BLH, keys, queries, angle_BLA = self.exchange.to_heads(
            (z, x, dt, rate, trapezoid), (keys, queries, angle)
        )
        dt_BLH = softplus(upcast(dt_BLH) + upcast(self.exchange.own(self.dt_bias)))
        if is_token_BL is not None:
            x_BLI = x_BLI.masked_fill(~is_token_BL[..., None], 0.0)
            dt_BLH = dt_BLH.masked_fill(~is_token_BL[..., None], 0.0)
        log_decay_BLH = -dt_BLH * softplus(upcast(rate_BLH)).clamp(min=DECAY_FLOOR)
        now_BLH = torch.sigmoid(upcast(trapezoid_BLH)) * dt_BLH
        later_BLH = dt_BLH - now_BLH  # (1 - u_t) Delta_t: the weight that token t gives the one before it

        phase_BLHA = self._phases(angle_BLA, dt_BLH, cache, document_BL)
        keys_BLRHN, queries_BLRHN = turned_heads(
            (self._normed(self.key_norm, keys), self._normed(self.query_norm, queries)),
            (self._per_head(self.key_bias), self._per_head(self.query_bias)),
            phase_BLHA,
            x_BLI.dtype,
        )
        values_BLRHP = self._ranks(x_BLI, self.value_scale)

        initial_state = None
        if cache:
            # The first new token gives its weight to the last one of the cache.
            outer_BHNP = (upcast(cache.keys_BRHN)[..., None] * upcast(cache.values_BRHP)[..., None, :]).sum(1)
            initial_state = cache.state_BHNP + later_BLH[:, 0, :, None, None] * outer_BHNP
        # What the first token of a document gives to the last one before it is read by neither.
        weights = TokenWeights(now_BLH + pad(later_BLH[:, 1:], (0, 0, 0, 1)), now_BLH)
        y_BMHP, state_BHNP = ssd(
            values_BLRHP.flatten(1, 2),
            log_decay_BLH,
            keys_BLRHN.flatten(1, 2),
            queries_BLRHN.flatten(1, 2),
            chunk_tokens=max(1, self.config.chunk_tokens // self.rank),
            initial_state=initial_state,
            weights=weights,
            skip_H=upcast(self.exchange.own(self.skip)),
            document_BL=document_BL,
        )
        if cache:
            cache.state_BHNP, cache.phase_BHA = state_BHNP, torch.remainder(phase_BLHA[:, -1], 2 * math.pi)
            cache.keys_BRHN, cache.values_BRHP = keys_BLRHN[:, -1], values_BLRHP[:, -1]

        y_BLRHP = upcast(y_BMHP.unflatten(1, (-1, self.rank))) * silu(upcast(self._ranks(z_BLI, self.gate_scale)))
        if self.out_scale is not None:
            y_BLRHP = y_BLRHP * self._per_head(self.out_scale)
        return self.out(self.exchange.to_tokens(y_BLRHP.sum(2).flatten(2).to(x_BLI.dtype)))

    def _phases(
        self, angle_BLA: Tensor, dt_BLH: Tensor, cache: Mamba3Cache | None, document_BL: Tensor | None
    ) -> Tensor:
        """Return the running sum of pi tanh(angle) Delta in radians, (B, L, H, A), float32 or wider."""
        with torch.autocast(angle_BLA.device.type, enabled=False):
            steps_BLHA = math.pi * torch.tanh(upcast(angle_BLA))[:, :, None] * dt_BLH[..., None]
            phase_BLHA = prefix_sum(steps_BLHA.flatten(2), document_BL).view(steps_BLHA.shape)
        return phase_BLHA + cache.phase_BHA[:, None] if cache else phase_BLHA

    def _normed(self, norm: RMSNorm, x_BLM: Tensor) -> Tensor:
        """Return keys or queries of every rank, (B, L, R, N), normed: float32 or wider."""
        normed_BLRN: Tensor = norm(upcast(x_BLM).unflatten(-1, (self.rank, -1)))
        return normed_BLRN

    def _per_head(self, flat: Tensor) -> Tensor:
        """Return a parameter of every rank and head as (R, H, .), float32 or wider."""
        return self.exchange.own(upcast(flat).view(self.rank, self.num_heads, -1), dim=1)

    def _ranks(self, x_BLI: Tensor, scale: Tensor | None) -> Tensor:
        """Return the heads of x for every rank, (B, L, R, H, P): scaled per rank and channel if there are several."""
        x_BLRHP = x_BLI.unflatten(-1, (-1, self.config.head_width))[:, :, None]
        if scale is None:
            return x_BLRHP
        return (x_BLRHP * self._per_head(scale)).to(x_BLI.dtype)

    @torch.no_grad()
    def initialise(self, std: float, generator: torch.Generator) -> None:
        """Projections N(0, std^2) as in every mixer here; the rest as published."""
        for linear in (self.project, self.out):
            nn.init.normal_(linear.weight, std=std, generator=generator)
        initialise_dt_bias(self.dt_bias, self.config.dt_min, self.config.dt_max, generator)
        for parameter in (self.skip, self.key_bias, self.query_bias, self.key_norm.weight, self.query_norm.weight):
            nn.init.ones_(parameter)
        for scale, value in (
            (self.value_scale, 1 / self.rank),
            (self.gate_scale, 1.0),
            (self.out_scale, 1 / self.rank),
        ):
            if scale is not None:
                nn.init.constant_(scale, value)
