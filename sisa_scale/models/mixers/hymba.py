"""The Hymba-style mixer (Dong et al. 2024, 2411.13676, section 2): attention and SSM heads read the same input.

    out = W_o (norm_a(attention) + norm_s(SSM(x) silu(z))) / 2

As in the paper both paths are e = 2 times as wide as the model, so the values of attention are twice as wide as its
queries and keys, and the weights of the two norms are the learned scales beta of the paths. The gate z belongs to the
SSM path alone and acts before its norm: the source hands it to the scan, and attention has no gate.

Where this departs from the paper, on purpose: the SSM path is Mamba-2's (one decay a head) instead of Mamba-1's, with
the convolution over (x, B, C), so that it is made of matrix products and comparable with the other mixers here; layers
share no keys and values. The meta tokens are the decoder's; here they are the first tokens, in sight of every window.

Weights, with d_kv = G d_h and H_s = e d / P:

    d (d + (1 + e) d_kv + 2 e d + 2 N + H_s)   the fused projection [q | k | v | z | x B C | dt]
    + (K + 1) (e d + 2 N)                      convolution and its bias
    + 3 H_s                                    D, dt_bias, A_log
    + 2 e d                                    the two norms
    + e d d                                    the output
    + d (H d_s + G (d_s + d_s / 2 + 1)) + H + G   with SISA, see local_sisa

The norm before the mixer is the block's and does not count.

Shapes: B batch, L length, D width d, I = e d inner width, H attention heads, G heads of keys and values, H_s = I / P
heads of the SSM path (H in the suffixes of its tensors), P their width, N state width, C channels, K taps.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from sisa_scale.config.fields import Violation
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.block import RMSNorm
from sisa_scale.models.kernels.fused_linear import FusedLinear
from sisa_scale.models.mixers.local_attention import AttentionCache, LocalAttention
from sisa_scale.models.mixers.local_sisa import LocalSisa
from sisa_scale.models.mixers.ssm_path import SsmCache, SsmPath
from sisa_scale.models.precision import upcast
from sisa_scale.models.row_parts import RowPart

NORM_EPSILON = 1e-6


@dataclass(slots=True)
class HymbaCache:
    """What the tokens so far leave behind in either path."""

    attention: AttentionCache
    ssm: SsmCache


class Hymba(nn.Module):
    """The mixer: one product projects for both paths, one takes the mean of their normed results back.

    A path says how many `channels` of the projection it reads. In a layer that is not global attention has the window
    of the config.
    """

    def __init__(self, model: ModelConfig, backend: str, layer: int) -> None:
        super().__init__()
        config, d_model = model.hymba, model.d_model
        assert config is not None
        for violation in (*config.width_violations(d_model), *config.head_violations(model.num_heads)):
            raise ValueError(_message(violation))
        self.config = config
        inner = config.inner_width(d_model)
        has_importance = config.attention == "sisa"
        self.attention = LocalSisa(model, backend, layer) if has_importance else LocalAttention(model, backend, layer)
        self.ssm = SsmPath(d_model, config, config.num_meta_tokens)
        self.widths = [self.attention.channels, self.ssm.channels]
        self.project = FusedLinear(d_model, self.widths)
        self.attention_norm = RMSNorm(inner, NORM_EPSILON)
        self.ssm_norm = RMSNorm(inner, NORM_EPSILON)
        self.out = nn.Linear(inner, d_model, bias=False)

    @classmethod
    def build(cls, model: ModelConfig, layer: int, attention_backend: str) -> Self:
        """Return the mixer of a layer."""
        return cls(model, attention_backend, layer)

    def row_parts(self) -> dict[str, dict[str, RowPart]]:
        """Return the parts of the projection, the attention path's first."""
        return {"project.weight": self.attention.parts() | self.ssm.parts(self.attention.channels)}

    def forward(self, x_BLD: Tensor, cos_sin_2LK: Tensor, document_BL: Tensor | None = None) -> Tensor:
        """Mix along the length.

        cos_sin_2LK are those of `position_cos_sin`. document_BL numbers the document of every token, the meta tokens'
        included, which every document sees: else each is read as if alone.
        """
        attention_BLC, ssm_BLC = self.project(x_BLD).split(self.widths, dim=-1)
        attention_BLI = self.attention(attention_BLC, cos_sin_2LK, document_BL)
        if document_BL is None:
            return self._join(attention_BLI, self.ssm(ssm_BLC))
        return self._join(attention_BLI, self.ssm(ssm_BLC, document_BL=document_BL))

    @torch.no_grad()
    def extend(
        self, x_BLD: Tensor, cache: HymbaCache, cos_sin_2BLK: Tensor, is_token_BL: Tensor | None = None
    ) -> Tensor:
        """Return what `forward` would for these L tokens after those in the cache; the cache then holds them, too.

        cos_sin_2BLK are those of every row's own positions. False in is_token_BL marks padding before the first
        token of a row; it has no influence.
        """
        attention_BLC, ssm_BLC = self.project(x_BLD).split(self.widths, dim=-1)
        attention_BLI = self.attention.extend(attention_BLC, cache.attention, cos_sin_2BLK, is_token_BL)
        return self._join(attention_BLI, self.ssm(ssm_BLC, cache.ssm, is_token_BL))

    def new_cache(self, batch: int, device: torch.device, dtype: torch.dtype) -> HymbaCache:
        """Return the cache of rows that hold no token yet; `dtype` is that of the projections' results."""
        return HymbaCache(
            self.attention.new_cache(batch, device, dtype),
            self.ssm.new_cache(batch, device, dtype),
        )

    def _join(self, attention_BLI: Tensor, ssm_BLI: Tensor) -> Tensor:
        mean_BLI = 0.5 * (self.attention_norm(upcast(attention_BLI)) + self.ssm_norm(upcast(ssm_BLI)))
        return self.out(mean_BLI.to(attention_BLI.dtype))

    @torch.no_grad()
    def initialise(self, std: float, generator: torch.Generator) -> None:
        """Projections N(0, std^2) as in every mixer here; the rest as published."""
        for linear in (self.project, self.out):
            nn.init.normal_(linear.weight, std=std, generator=generator)
        self.attention.initialise(self.project.weight[: self.attention.channels], std)
        self.ssm.initialise(generator)
        for norm in (self.attention_norm, self.ssm_norm):
            nn.init.ones_(norm.weight)


def _message(violation: Violation) -> str:
    return f"{violation.key} {violation.found}: {violation.allowed}. {violation.remedy}"
