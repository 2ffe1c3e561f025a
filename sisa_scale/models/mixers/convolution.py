"""Causal depthwise convolution over the length.

Shapes: B batch, L length, C channels, K taps of the kernel.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from sisa_scale.models.precision import upcast


class CausalConvolution(nn.Module):
    """One short kernel per channel, as a sum of shifted products: they fuse with what follows, no layout changes.

    The weight is 2-D, (taps, channels), and so belongs to the decayed matrices; the bias, if any, to the vectors.
    """

    bias: nn.Parameter | None

    def __init__(self, channels: int, taps: int, *, has_bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(taps, channels))
        self.register_parameter("bias", nn.Parameter(torch.empty(channels)) if has_bias else None)

    def forward(
        self,
        x_BLC: Tensor,
        before_BKC: Tensor | None = None,
        document_BL: Tensor | None = None,
        select: Callable[[Tensor], Tensor] = lambda parameter: parameter,
    ) -> tuple[Tensor, Tensor]:
        """Return y_t = bias + sum_k weight_k x_{t-K+1+k}, summed in float32 or wider, and the last K - 1 inputs.

        `before_BKC` are the K - 1 inputs before the first; zeros if not given. With document_BL, the number of every
        token's document, the inputs of other documents count as zeros, too. Where x has some of the channels alone,
        `select` returns those of the last dimension of a parameter.
        """
        weight_KC = select(self.weight)
        taps, length = weight_KC.shape[0], x_BLC.shape[1]
        padded = pad(x_BLC, (0, 0, taps - 1, 0)) if before_BKC is None else torch.cat((before_BKC, x_BLC), dim=1)
        y_BLC = upcast(weight_KC.new_zeros(()) if self.bias is None else select(self.bias))
        for tap, weight_C in enumerate(upcast(weight_KC)):
            shifted_BLC = padded[:, tap : tap + length]
            if document_BL is not None:
                shifted_BL = pad(document_BL, (taps - 1 - tap, 0), value=-1)[:, :length]
                shifted_BLC = shifted_BLC.masked_fill((shifted_BL != document_BL)[..., None], 0.0)
            y_BLC = y_BLC + shifted_BLC * weight_C
        return y_BLC.to(x_BLC.dtype), padded[:, length:]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw weight and bias as torch's own convolution does: uniform within 1 / sqrt(taps)."""
        bound = self.weight.shape[0] ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
