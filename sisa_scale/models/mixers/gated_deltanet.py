"""Gated DeltaNet (Yang, Kautz & Hatamizadeh 2024, 2412.06464): a state that decays, and is corrected by the delta rule.

    S_t = a_t S_{t-1} + b_t k_t (v_t - a_t S_{t-1}^T k_t)^T,    y_t = S_t^T q_t / sqrt(N)

    q, k, v = silu(convolution(projections)), q and k then of length 1
    a = exp(-A softplus(dt + bias)),  b = sigmoid(rate)
    out = projection(rms_norm(y) silu(z)), the norm within a head

The block is the published one, as Qwen3-Next has it: one short convolution without bias, no positions. Where the
authors project q, k, v, z, a and b one by one, one product gives all of them.

Shapes: B batch, L length, D width, I = H P width of all values, H heads of values, P head width, G heads of keys and
queries, N key width, C channels of the convolution [q k v], K its taps but one.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from sisa_scale.config.mixers.gated_deltanet import GatedDeltaNetConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.block import RMSNorm, rms_normalized
from sisa_scale.models.kernels.delta_rule import delta_rule
from sisa_scale.models.kernels.delta_rule_fla import DeltaRule, delta_rule_kernel
from sisa_scale.models.kernels.fused_linear import FusedLinear
from sisa_scale.models.mixers.convolution import CausalConvolution
from sisa_scale.models.mixers.mamba2 import NORM_EPSILON
from sisa_scale.models.mixers.ssm_path import initialise_dt_bias
from sisa_scale.models.precision import upcast
from sisa_scale.models.row_parts import RowPart, stacked
from sisa_scale.models.sequence_parallel import HeadExchange

LENGTH_EPSILON = 1e-6  # added to the squared length of keys and queries


@dataclass(slots=True)
class DeltaNetCache:
    """What the tokens so far leave behind: the last inputs of the convolution, and the states."""

    conv_BKC: Tensor
    state_BHNP: Tensor


class GatedDeltaNet(nn.Module):
    """The mixer. No positions: order comes from convolution and decay."""

    def __init__(self, d_model: int, config: GatedDeltaNetConfig) -> None:
        super().__init__()
        for violation in config.width_violations(d_model):
            raise ValueError(f"{violation.key} {violation.found}: {violation.allowed}. {violation.remedy}")
        self.config = config
        self.num_heads, inner = config.num_heads(d_model), config.inner_width(d_model)
        self.widths = config.conv_widths(d_model)
        self.all_widths = [*self.widths, inner, self.num_heads, self.num_heads]
        self.project = FusedLinear(d_model, self.all_widths)
        self.conv = CausalConvolution(sum(self.widths), config.conv_kernel, has_bias=False)
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads))
        self.a_log = nn.Parameter(torch.empty(self.num_heads))
        self.norm = RMSNorm(config.head_width, NORM_EPSILON)
        self.out = nn.Linear(inner, d_model, bias=False)
        self.kernel: DeltaRule | None = None
        self.exchange = HeadExchange()

    @classmethod
    def build(cls, model: ModelConfig, layer: int, attention_backend: str) -> Self:
        """Return the mixer of a layer."""
        assert model.gated_deltanet is not None
        return cls(model.d_model, model.gated_deltanet)

    def row_parts(self) -> dict[str, dict[str, RowPart]]:
        """Return the parts of the projection."""
        names = ("queries", "keys", "values", "z", "dt", "rate")
        return {"project.weight": stacked(dict(zip(names, self.all_widths, strict=True)))}

    def use_kernel(self, name: str) -> None:
        """Take the kernel of `execution.state_space_kernel`; see `delta_rule_kernel`."""
        self.kernel = delta_rule_kernel(name)

    def forward(self, x_BLD: Tensor, cos_sin_2LK: Tensor, document_BL: Tensor | None = None) -> Tensor:
        """Mix along the length; cos_sin_2LK, the positions of other mixers, go unused.

        document_BL numbers the document of every token: each is read as if alone.
        """
        return self._mix(x_BLD, None, None, document_BL)

    @torch.no_grad()
    def extend(
        self, x_BLD: Tensor, cache: DeltaNetCache, cos_sin_2BLK: Tensor, is_token_BL: Tensor | None = None
    ) -> Tensor:
        """Return what `forward` would for these L tokens after those in the cache; the cache then holds them, too.

        cos_sin_2BLK go unused. False in is_token_BL marks padding before the first token of a row; it has no influence.
        """
        return self._mix(x_BLD, cache, is_token_BL, None)

    def new_cache(self, batch: int, device: torch.device, dtype: torch.dtype) -> DeltaNetCache:
        """Return the cache of rows that hold no token yet; `dtype` is that of the projections' results."""
        conv = torch.zeros(batch, self.config.conv_kernel - 1, sum(self.widths), device=device, dtype=dtype)
        shape = (batch, self.num_heads, self.config.key_width, self.config.head_width)
        return DeltaNetCache(conv, upcast(torch.zeros(shape, device=device, dtype=dtype)))

    def _mix(
        self, x_BLD: Tensor, cache: DeltaNetCache | None, is_token_BL: Tensor | None, document_BL: Tensor | None
    ) -> Tensor:
        q, k, v, z_BLI, dt, rate = self.project(x_BLD).split(self.all_widths, dim=-1)
        *qkv, dt_BLH, rate_BLH = self.exchange.to_heads((q, k, v, dt, rate))
        conv_BLC = torch.cat(qkv, dim=-1)
        if is_token_BL is not None:  # what follows of nothing is nothing: keys and values of 0
            conv_BLC = conv_BLC.masked_fill(~is_token_BL[..., None], 0.0)
        conv_BLC, conv_BKC = self.conv(conv_BLC, cache.conv_BKC if cache else None, document_BL, self._own_channels)
        q, k, v = silu(upcast(conv_BLC)).split([width // self.exchange.size for width in self.widths], dim=-1)
        queries_BLGN, keys_BLGN = (self._of_length_1(x) for x in (q, k))
        dt_BLH = softplus(upcast(dt_BLH) + upcast(self.exchange.own(self.dt_bias)))
        y_BLHP, state_BHNP = delta_rule(
            v.to(z_BLI.dtype).unflatten(-1, (-1, self.config.head_width)),
            -upcast(self.exchange.own(self.a_log)).exp() * dt_BLH,
            torch.sigmoid(upcast(rate_BLH)),
            keys_BLGN.to(z_BLI.dtype),
            (queries_BLGN * self.config.key_width**-0.5).to(z_BLI.dtype),
            chunk_tokens=self.config.chunk_tokens,
            initial_state=cache.state_BHNP if cache else None,
            document_BL=document_BL,
            kernel=self.kernel,
        )
        if cache:
            cache.conv_BKC, cache.state_BHNP = conv_BKC, state_BHNP
        y_BLI = self.exchange.to_tokens(y_BLHP.flatten(2).to(z_BLI.dtype))
        normed_BLI = self.norm(upcast(y_BLI).unflatten(-1, (-1, self.config.head_width))).flatten(2)
        return self.out((normed_BLI * silu(upcast(z_BLI))).to(z_BLI.dtype))

    def _of_length_1(self, x_BLC: Tensor) -> Tensor:
        """Return the heads of keys or queries over their length, (B, L, G, N), in float32 or wider."""
        width = self.config.key_width
        return rms_normalized(x_BLC.unflatten(-1, (-1, width)), LENGTH_EPSILON / width) * width**-0.5

    def _own_channels(self, parameter: Tensor) -> Tensor:
        """Return a parameter of the convolution for the channels [q k v] of this worker's heads."""
        if self.exchange.size == 1:
            return parameter
        return torch.cat([self.exchange.own(part, -1) for part in parameter.split(self.widths, dim=-1)], dim=-1)

    @torch.no_grad()
    def initialise(self, std: float, generator: torch.Generator) -> None:
        """Projections N(0, std^2) as in every mixer here; the rest as published."""
        for linear in (self.project, self.out):
            nn.init.normal_(linear.weight, std=std, generator=generator)
        self.conv.initialise(generator)
        initialise_dt_bias(self.dt_bias, self.config.dt_min, self.config.dt_max, generator)
        low, high = self.config.a_init
        self.a_log.copy_(nn.init.uniform_(self.a_log, low, high, generator=generator).log())
        nn.init.ones_(self.norm.weight)
