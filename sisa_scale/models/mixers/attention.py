"""Causal multi-head attention with rotary positions: the Transformer's mixer.

Queries of a group may share keys and values, a layer may see a window of tokens, and a sigmoid gate of the input may
scale the result of every head or channel: see `ModelConfig`.

Shapes: B batch, L length, M keys, D width, H heads, G heads of keys and values, K channels of a head.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from sisa_scale.config.model import ModelConfig
from sisa_scale.models.cache import KeyValueCache
from sisa_scale.models.kernels.fused_linear import FusedLinear
from sisa_scale.models.kernels.sdpa import attend, attend_where
from sisa_scale.models.kernels.window import attend_window
from sisa_scale.models.mixers.grouped_heads import GroupedHeads, gated
from sisa_scale.models.mixers.head_norm import HeadNorm
from sisa_scale.models.mixers.importance import document_mask
from sisa_scale.models.mixers.rotary import rotate_by_position
from sisa_scale.models.row_parts import RowPart, stacked


class Attention(nn.Module):
    """Softmax attention (Vaswani et al. 2017) without biases."""

    def __init__(self, config: ModelConfig, backend: str, layer: int = 0) -> None:
        super().__init__()
        self.num_heads, self.kv_heads, self.head_width = config.num_heads, config.kv_heads, config.head_width
        self.window_tokens = config.window_of(layer)
        self.exchange = GroupedHeads(self.num_heads, self.kv_heads)
        self.backend, self.scale = backend, config.head_width**-0.5
        # One product gives [q | k | v | gate].
        self.widths = (config.d_model, config.kv_width, config.kv_width, config.gate_width)
        self.qkv = FusedLinear(config.d_model, self.widths)
        self.query_norm, self.key_norm = HeadNorm(config), HeadNorm(config)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    @classmethod
    def build(cls, model: ModelConfig, layer: int, attention_backend: str) -> Self:
        """Return the mixer of a layer."""
        return cls(model, attention_backend, layer)

    def row_parts(self) -> dict[str, dict[str, RowPart]]:
        """Return the parts of the projection."""
        widths = dict(zip(("q", "k", "v", "gate"), self.widths, strict=True))
        return {"qkv.weight": stacked({name: width for name, width in widths.items() if width})}

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
        *qkv, gate_BLC = self.qkv(x_BLD).split(self.widths, dim=-1)
        q_BLHK, k_BLGK, v_BLGK = self._heads(self.exchange.to_groups(qkv[:1], qkv[1:]), cos_sin_2LK)
        k_BLHK, v_BLHK = self.exchange.for_every_head(k_BLGK), self.exchange.for_every_head(v_BLGK)
        if self.window_tokens is not None and self.window_tokens < v_BLHK.shape[1]:
            out = attend_window(
                q_BLHK, k_BLHK, v_BLHK,
                window_tokens=self.window_tokens, scale=self.scale, document_BL=document_BL,
            )  # fmt: skip
        elif document_BL is None:
            out = attend(q_BLHK, k_BLHK, v_BLHK, scale=self.scale, backend=self.backend)
        else:
            mask_BLM = document_mask(document_BL, v_BLHK.dtype) if mask_BLM is None else mask_BLM
            out = attend_where(mask_BLM, q_BLHK, k_BLHK, v_BLHK, scale=self.scale)
        return self.out(gated(self.exchange.to_tokens(out.flatten(2)), gate_BLC))

    def new_cache(self, batch: int, device: torch.device, dtype: torch.dtype) -> KeyValueCache:
        """Return the cache of rows that hold no token yet; `dtype` is that of its keys and values."""
        widths = self.head_width, self.head_width
        return KeyValueCache(batch, self.kv_heads, *widths, device, dtype, self.window_tokens)

    @torch.no_grad()
    def extend(
        self, x_BLD: Tensor, cache: KeyValueCache, cos_sin_2BLK: Tensor, is_token_BL: Tensor | None = None
    ) -> Tensor:
        """Return what `forward` would for these L tokens after those in the cache; the cache then holds them, too.

        cos_sin_2BLK are per row, as padding gives rows other positions. False in is_token_BL marks padding before the
        first token of a row; it has no influence.
        """
        *qkv, gate_BLC = self.qkv(x_BLD).split(self.widths, dim=-1)
        q_BLHK, k_BLGK, v_BLGK = self._heads(qkv, cos_sin_2BLK)
        keys, values, is_visible_BLM = cache.append(k_BLGK, v_BLGK, is_token_BL)
        keys, values = self.exchange.for_every_head(keys), self.exchange.for_every_head(values)
        out = attend_where(is_visible_BLM, q_BLHK.to(keys.dtype), keys, values, scale=self.scale)
        return self.out(gated(out.flatten(2).to(v_BLGK.dtype), gate_BLC))

    @torch.no_grad()
    def initialise(self, std: float, generator: torch.Generator) -> None:
        """Draw every projection from N(0, std^2); gains begin at 1."""
        for linear in (self.qkv, self.out):
            nn.init.normal_(linear.weight, std=std, generator=generator)
        self.query_norm.initialise()
        self.key_norm.initialise()

    def _heads(self, qkv: Sequence[Tensor], cos_sin_2LK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys, normalized and rotated, and values."""
        q_BLHK, k_BLGK, v_BLGK = (x_BLC.unflatten(-1, (-1, self.head_width)) for x_BLC in qkv)
        q_BLHK, k_BLGK = self.query_norm.content(q_BLHK), self.key_norm.content(k_BLGK)
        q_BLHK, k_BLGK = (rotate_by_position(x, cos_sin_2LK).to(v_BLGK.dtype) for x in (q_BLHK, k_BLGK))
        return q_BLHK, k_BLGK, v_BLGK
