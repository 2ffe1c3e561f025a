"""RMS norms of queries and keys within a head (QK-norm: Henry et al. 2020, 2010.04245; RMS as in Qwen3, 2505.09388).

A logit is a product of two projections, and neither bounds it: with a high learning rate both grow, attention collapses
to single keys, and gradients explode. A vector of root mean square 1 cannot grow. Content is normalized before its
rotation by position, importance (C of a query, B of a key) before its rotation by phase and before the factors of decay
and lambda.

Shapes: B batch, L length, H heads, K channels of content, S of importance.
"""

import torch
from torch import Tensor, nn

from sisa_scale.config.model import ModelConfig
from sisa_scale.models.block import rms_normalized


class HeadNorm(nn.Module):
    """The norms of the queries, or of the keys, of a layer: what the model does not normalize is returned as it is.

    The gain, if there is one, is of content alone: one factor for each channel, shared by all heads.
    """

    gain: nn.Parameter | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.epsilon, self.content_width = config.norm_epsilon, config.head_width
        self.has_content_norm = config.qk_norm
        self.has_importance_norm = config.sisa is not None and config.sisa.normalize_importance
        gain = nn.Parameter(torch.empty(config.head_width)) if config.qk_norm_gain else None
        self.register_parameter("gain", gain)

    def content(self, x_BLHK: Tensor) -> Tensor:
        """Return content channels, in fp32 or wider where they are normalized."""
        if not self.has_content_norm:
            return x_BLHK
        x_BLHK = rms_normalized(x_BLHK, self.epsilon)
        return x_BLHK if self.gain is None else x_BLHK * self.gain

    def importance(self, x_BLHS: Tensor) -> Tensor:
        """Return importance channels, in fp32 or wider where they are normalized."""
        return rms_normalized(x_BLHS, self.epsilon) if self.has_importance_norm else x_BLHS

    @torch.no_grad()
    def initialise(self) -> None:
        """Begin with a gain of 1."""
        if self.gain is not None:
            nn.init.ones_(self.gain)
