"""Causal multi-head attention with rotary positions: the Transformer's mixer.

Shapes: B batch, L length, D width, H heads, K channels of a head.
"""

from typing import Self

import torch
from torch import Tensor, nn

from sisa_scale.config.model import ModelConfig
from sisa_scale.models.cache import KeyValueCache
from sisa_scale.models.kernels.sdpa import attend, attend_where
from sisa_scale.models.mixers.head_norm import HeadNorm
from sisa_scale.models.mixers.importance import document_mask
from sisa_scale.models.mixers.rotary import rotate_by_position
from sisa_scale.models.row_parts import RowPart, stacked
from sisa_scale.models.sequence_parallel import HeadExchange


class Attention(nn.Module):
    """Softmax attention (Vaswani et al. 2017) without biases."""

    def __init__(self, config: ModelConfig, backend: str) -> None:
        super().__init__()
        self.num_heads, self.head_width = config.num_heads, config.head_width
        self.exchange = HeadExchange()
        self.backend, self.scale = backend, config.head_width**-0.5
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.query_norm, self.key_norm = HeadNorm(config), HeadNorm(config)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    @classmethod
    def build(cls, model: ModelConfig, layer: int, attention_backend: str) -> Self:
        """Return the mixer of a layer."""
        return cls(model, attention_backend)

    def row_parts(self) -> dict[str, dict[str, RowPart]]:
        """Return the parts of the projection."""
        return {"qkv.weight": stacked(dict.fromkeys("qkv", self.out.in_features))}

    def forward(
        self,
        x_BLD: Tensor,
        cos_sin_2LK: Tensor,
        document_BL: Tensor | None = None,
        mask_BLM: Tensor | None = None,
    ) -> Tensor:
        """Mix along the length.

        cos_sin_2LK are those of `position_cos_sin`. document_BL numbers the document of every token: each is read as if
        alone, through a mask, which is slower. mask_BLM is that mask (see `document_mask`), made here if it is not
        given.
        """
        q_BLHK, k_BLHK, v_BLHK = self._project(x_BLD, cos_sin_2LK)
        if document_BL is None:
            out = attend(q_BLHK, k_BLHK, v_BLHK, scale=self.scale, backend=self.backend)
        else:
            mask_BLM = document_mask(document_BL, v_BLHK.dtype) if mask_BLM is None else mask_BLM
            out = attend_where(mask_BLM, q_BLHK, k_BLHK, v_BLHK, scale=self.scale)
        return self.out(self.exchange.to_tokens(out.flatten(2)))

    def new_cache(self, batch: int, device: torch.device, dtype: torch.dtype) -> KeyValueCache:
        """Return the cache of rows that hold no token yet; `dtype` is that of its keys and values."""
        return KeyValueCache(batch, self.num_heads, self.head_width, self.head_width, device, dtype)

    @torch.no_grad()
    def extend(
        self, x_BLD: Tensor, cache: KeyValueCache, cos_sin_2BLK: Tensor, is_token_BL: Tensor | None = None
    ) -> Tensor:
        """Return what `forward` would for these L tokens after those in the cache; the cache then holds them, too.

        cos_sin_2BLK are per row, as padding gives rows other positions. False in is_token_BL marks padding before the
        first token of a row; it has no influence.
        """
        q_BLHK, k_BLHK, v_BLHK = self._project(x_BLD, cos_sin_2BLK)
        keys, values, is_visible_BLM = cache.append(k_BLHK, v_BLHK, is_token_BL)
        out = attend_where(is_visible_BLM, q_BLHK.to(keys.dtype), keys, values, scale=self.scale)
        return self.out(out.flatten(2).to(v_BLHK.dtype))

    @torch.no_grad()
    def initialise(self, std: float, generator: torch.Generator) -> None:
        """Draw every projection from N(0, std^2); gains begin at 1."""
        for linear in (self.qkv, self.out):
            nn.init.normal_(linear.weight, std=std, generator=generator)
        self.query_norm.initialise()
        self.key_norm.initialise()

    def _project(self, x_BLD: Tensor, cos_sin_2LK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv = self.qkv(x_BLD).unflatten(-1, (3, self.num_heads, self.head_width)).unbind(2)
        if self.exchange.size > 1:
            shared = self.exchange.to_heads([x_BLHK.flatten(2) for x_BLHK in qkv])
            qkv = tuple(x_BLD.unflatten(-1, (-1, self.head_width)) for x_BLD in shared)
        q_BLHK, k_BLHK, v_BLHK = qkv
        q_BLHK, k_BLHK = self.query_norm.content(q_BLHK), self.key_norm.content(k_BLHK)
        q_BLHK, k_BLHK = (rotate_by_position(x_BLHK, cos_sin_2LK).to(v_BLHK.dtype) for x_BLHK in (q_BLHK, k_BLHK))
        return q_BLHK, k_BLHK, v_BLHK
