"""Mamba-2 (Dao & Gu 2024, paper 2405.21060, section 7), with one group of keys and queries.

    h_t = exp(-A Delta_t) h_{t-1} + Delta_t B_t x_t^T,    y_t = C_t^T h_t + D x_t

Shapes: B batch, L length, D width, I = H P inner width, H heads, P head width, N state width, C = I + 2 N channels of
the convolution, K its taps but one.
"""

from typing import Self

import torch
from torch import Tensor, nn

from sisa_scale.config.mixers.mamba import Mamba2Config
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.block import RMSNorm
from sisa_scale.models.kernels.fused_linear import FusedLinear
from sisa_scale.models.mixers.ssm_path import SsmCache, SsmPath
from sisa_scale.models.row_parts import RowPart

NORM_EPSILON = 1e-5


class Mamba2(nn.Module):
    """The mixer. No positions: order comes from convolution and decay."""

    def __init__(self, d_model: int, config: Mamba2Config) -> None:
        super().__init__()
        for violation in config.width_violations(d_model):
            raise ValueError(f"{violation.key} {violation.found}: {violation.allowed}. {violation.remedy}")
        inner = config.inner_width(d_model)
        self.path = SsmPath(d_model, config)
        self.project = FusedLinear(d_model, [self.path.channels])
        self.norm = RMSNorm(inner, NORM_EPSILON)
        self.out = nn.Linear(inner, d_model, bias=False)

    @classmethod
    def build(cls, model: ModelConfig, layer: int, attention_backend: str) -> Self:
        """Return the mixer of a layer."""
        assert model.mamba2 is not None
        return cls(model.d_model, model.mamba2)

    def row_parts(self) -> dict[str, dict[str, RowPart]]:
        """Return the parts of the projection."""
        return {"project.weight": self.path.parts()}

    def forward(self, x_BLD: Tensor, cos_sin_2LK: Tensor, document_BL: Tensor | None = None) -> Tensor:
        """Mix along the length; cos_sin_2LK, the positions of other mixers, go unused.

        document_BL numbers the document of every token: each is read as if alone.
        """
        return self._mix(x_BLD, None, None, document_BL)

    @torch.no_grad()
    def extend(self, x_BLD: Tensor, cache: SsmCache, cos_sin_2BLK: Tensor, is_token_BL: Tensor | None = None) -> Tensor:
        """Return what `forward` would for these L tokens after those in the cache; the cache then holds them, too.

        cos_sin_2BLK go unused. False in is_token_BL marks padding before the first token of a row; it has no influence.
        """
        return self._mix(x_BLD, cache, is_token_BL, None)

    def new_cache(self, batch: int, device: torch.device, dtype: torch.dtype) -> SsmCache:
        """Return the cache of rows that hold no token yet; `dtype` is that of the projections' results."""
        return self.path.new_cache(batch, device, dtype)

    def _mix(
        self, x_BLD: Tensor, cache: SsmCache | None, is_token_BL: Tensor | None, document_BL: Tensor | None
    ) -> Tensor:
        y_BLI = self.path(self.project(x_BLD), cache, is_token_BL, document_BL)
        return self.out(self.norm(y_BLI))

    @torch.no_grad()
    def initialise(self, std: float, generator: torch.Generator) -> None:
        """Projections N(0, std^2) as in every mixer here; the rest as published."""
        for linear in (self.project, self.out):
            nn.init.normal_(linear.weight, std=std, generator=generator)
        self.path.initialise(generator)
        nn.init.ones_(self.norm.weight)
