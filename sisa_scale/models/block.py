"""The residual block every architecture shares: norm, mixer, residual; norm, SwiGLU, residual.

Shapes: B batch, L length, D width, F hidden width of the SwiGLU.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from sisa_scale.config.execution import Recomputation
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.activation_checkpointing import Checkpoint, activation_checkpointed
from sisa_scale.models.precision import upcast
from sisa_scale.models.row_parts import RowPart, stacked


def rms_normalized(x: Tensor, epsilon: float) -> Tensor:
    """Return x over the root mean square of its last axis, in fp32 (or wider)."""
    wide = upcast(x)
    return wide * (wide.square().mean(-1, keepdim=True) + epsilon).rsqrt()


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang & Sennrich 2019), computed in fp32 (or wider) and returned in the dtype of x."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.epsilon = epsilon

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Divide by the root mean square over the width and scale."""
        return (rms_normalized(x_BLD, self.epsilon) * self.weight).to(x_BLD.dtype)


class SwiGLU(nn.Module):
    """Gated feed-forward (Shazeer 2020) without biases; gate and up come out of one product."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def row_parts(self) -> dict[str, dict[str, RowPart]]:
        """Return the parts of the first product."""
        return {"gate_up.weight": stacked(dict.fromkeys(("gate", "up"), self.down.in_features))}

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Return down(silu(gate(x)) * up(x))."""
        gate_BLF, up_BLF = self.gate_up(x_BLD).chunk(2, dim=-1)
        return self.down(silu(gate_BLF) * up_BLF)


class Block(nn.Module):
    """One layer; `recomputation` tells what it computes again in the backward pass."""

    def __init__(self, config: ModelConfig, mixer: Any, *, recomputation: Recomputation | Checkpoint) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.d_model, config.norm_epsilon)
        self.mixer = mixer
        self.mlp_norm = RMSNorm(config.d_model, config.norm_epsilon) if config.d_ff else None
        self.mlp = SwiGLU(config.d_model, config.d_ff) if config.d_ff else None
        self.recomputation = recomputation

    def forward(self, x_BLD: Tensor, cos_sin_2LK: Tensor, *documents: Tensor) -> Tensor:
        """Apply the layer to the residual stream; `documents` are what the mixer takes of packed documents."""
        return activation_checkpointed(self._forward, self.recomputation, x_BLD, cos_sin_2LK, *documents)

    def extend(self, x_BLD: Tensor, cache: Any, cos_sin_2BLK: Tensor, is_token_BL: Tensor | None) -> Tensor:
        """Apply the layer to the tokens after those in the mixer's cache."""
        return self._mlp(x_BLD + self.mixer.extend(self.mixer_norm(x_BLD), cache, cos_sin_2BLK, is_token_BL))

    def _forward(self, x_BLD: Tensor, cos_sin_2LK: Tensor, *documents: Tensor) -> Tensor:
        return self._mlp(x_BLD + self.mixer(self.mixer_norm(x_BLD), cos_sin_2LK, *documents))

    def _mlp(self, x_BLD: Tensor) -> Tensor:
        if self.mlp is None or self.mlp_norm is None:
            return x_BLD
        return x_BLD + self.mlp(self.mlp_norm(x_BLD))
