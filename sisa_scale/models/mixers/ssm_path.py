"""The state-space path that Mamba-2 and Hymba share: what lies between the projections of Mamba-2 (2405.21060).

    h_t = exp(-A Delta_t) h_{t-1} + Delta_t B_t x_t^T,    y_t = (C_t^T h_t + D x_t) silu(z_t)

Shapes: B batch, L length, I = H P inner width, H heads, P head width, N state width, C channels, K taps of the
convolution but one.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from sisa_scale.config.mixers.mamba import Mamba2Config
from sisa_scale.models.kernels.ssd import ssd
from sisa_scale.models.kernels.ssd_triton import Scan, scan_kernel
from sisa_scale.models.mixers.convolution import CausalConvolution
from sisa_scale.models.precision import upcast
from sisa_scale.models.row_parts import RowPart, stacked
from sisa_scale.models.sequence_parallel import HeadExchange

DT_FLOOR = 1e-4


@dataclass(slots=True)
class SsmCache:
    """What the tokens so far leave behind: the last inputs of the convolution, and the states."""

    conv_BKC: Tensor
    state_BHNP: Tensor


class SsmPath(nn.Module):
    """Mamba-2 between its projections: reads `channels` of a projection as [z | x B C | dt].

    num_first_tokens: see `HeadExchange`.
    """

    def __init__(self, d_model: int, config: Mamba2Config, num_first_tokens: int = 0) -> None:
        super().__init__()
        self.config = config
        self.num_heads, inner = config.num_heads(d_model), config.inner_width(d_model)
        self.inner_widths = [inner, config.state_width, config.state_width]
        self.widths = [inner, sum(self.inner_widths), self.num_heads]
        self.channels = sum(self.widths)
        self.conv = CausalConvolution(sum(self.inner_widths), config.conv_kernel)
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads))
        self.a_log = nn.Parameter(torch.empty(self.num_heads))
        self.skip = nn.Parameter(torch.empty(self.num_heads))
        self.kernel: Scan | None = None
        self.exchange = HeadExchange(num_first_tokens)

    def use_kernel(self, name: str) -> None:
        """Take the kernel of `execution.state_space_kernel`; see `scan_kernel`."""
        self.kernel = scan_kernel(name)

    def parts(self, start: int = 0) -> dict[str, RowPart]:
        """Return the parts of this path's rows of the projection, the first of which is `start`."""
        widths = (self.widths[0], *self.inner_widths, self.num_heads)
        return stacked(dict(zip(("z", "x", "keys", "queries", "dt"), widths, strict=True)), start)

    def forward(
        self,
        projected_BLC: Tensor,
        cache: SsmCache | None = None,
        is_token_BL: Tensor | None = None,
        document_BL: Tensor | None = None,
    ) -> Tensor:
        """Return the gated (B, L, I) after the tokens of the cache; it then holds these, too.

        document_BL numbers the document of every token: convolution and state begin anew with each. Without a cache.
        """
        z_BLI, conv_BLC, dt_BLH = projected_BLC.split(self.widths, dim=-1)
        conv_BLC, dt_BLH = self._to_heads(conv_BLC, dt_BLH)
        dt_BLH = softplus(upcast(dt_BLH) + upcast(self.exchange.own(self.dt_bias)))
        if is_token_BL is not None:
            conv_BLC = conv_BLC.masked_fill(~is_token_BL[..., None], 0.0)
            dt_BLH = dt_BLH.masked_fill(~is_token_BL[..., None], 0.0)

        conv_BLC, conv_BKC = self.conv(conv_BLC, cache.conv_BKC if cache else None, document_BL, self._own_channels)
        inner, *state_widths = self.inner_widths
        widths = [inner // self.exchange.size, *state_widths]
        x_BLI, keys_BLN, queries_BLN = silu(upcast(conv_BLC)).to(z_BLI.dtype).split(widths, dim=-1)
        x_BLHP = x_BLI.unflatten(-1, (-1, self.config.head_width))
        skipped_BLHP = upcast(self.exchange.own(self.skip))[:, None] * x_BLHP
        y_BLHP, state_BHNP = ssd(
            (x_BLHP * dt_BLH[..., None]).to(z_BLI.dtype),
            -upcast(self.exchange.own(self.a_log)).exp() * dt_BLH,
            keys_BLN[:, :, None],
            queries_BLN[:, :, None],
            chunk_tokens=self.config.chunk_tokens,
            initial_state=cache.state_BHNP if cache else None,
            document_BL=document_BL,
            kernel=self.kernel,
        )
        if cache:
            cache.conv_BKC, cache.state_BHNP = conv_BKC, state_BHNP
        y_BLI = self.exchange.to_tokens((y_BLHP + skipped_BLHP).flatten(2).to(z_BLI.dtype))
        return (y_BLI * silu(upcast(z_BLI))).to(z_BLI.dtype)

    def _to_heads(self, conv_BLC: Tensor, dt_BLH: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the scan reads of all tokens: channels [x B C] of this worker's heads, and their time steps."""
        if self.exchange.size == 1:
            return conv_BLC, dt_BLH
        inner = self.inner_widths[0]
        x_BLI, dt_BLH, states_BLN = self.exchange.to_heads((conv_BLC[..., :inner], dt_BLH), (conv_BLC[..., inner:],))
        return torch.cat((x_BLI, states_BLN), dim=-1), dt_BLH

    def _own_channels(self, parameter: Tensor) -> Tensor:
        """Return a parameter of the convolution for the channels [x B C] of this worker's heads."""
        if self.exchange.size == 1:
            return parameter
        inner = self.inner_widths[0]
        return torch.cat((self.exchange.own(parameter[..., :inner], -1), parameter[..., inner:]), dim=-1)

    def new_cache(self, batch: int, device: torch.device, dtype: torch.dtype) -> SsmCache:
        """Return the cache of rows that hold no token yet; `dtype` is that of the projection's result."""
        conv = torch.zeros(batch, self.config.conv_kernel - 1, self.widths[1], device=device, dtype=dtype)
        shape = (batch, self.num_heads, self.config.state_width, self.config.head_width)
        return SsmCache(conv, upcast(torch.zeros(shape, device=device, dtype=dtype)))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """As published for Mamba-2."""
        self.conv.initialise(generator)
        initialise_dt_bias(self.dt_bias, self.config.dt_min, self.config.dt_max, generator)
        low, high = self.config.a_init
        self.a_log.copy_(nn.init.uniform_(self.a_log, low, high, generator=generator).log())
        nn.init.ones_(self.skip)


@torch.no_grad()
def initialise_dt_bias(bias_H: Tensor, dt_min: float, dt_max: float, generator: torch.Generator) -> None:
    """Fill the bias so that Delta = softplus(bias) is log-uniform in [dt_min, dt_max], and at least 1e-4."""
    dt_H = nn.init.uniform_(bias_H, math.log(dt_min), math.log(dt_max), generator=generator).exp().clamp(min=DT_FLOOR)
    bias_H.copy_(dt_H + torch.log(-torch.expm1(-dt_H)))
