"""Causal attention with grouped keys and values, a sliding window, and first tokens that stay in sight (Hymba,
Dong et al. 2024, 2411.13676, section 2).

Token i sees token j <= i if i - j < window, or if j is one of the first tokens (the meta tokens), or if there is no
window. Values may be wider than keys.

Shapes: B batch, L length, S tokens of the cache, H heads, G heads of keys and values, K channels of a query or key,
J channels of a value, C channels of a projection.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

from sisa_scale.config.model import ModelConfig
from sisa_scale.models.kernels.sdpa import attend
from sisa_scale.models.kernels.window import sees
from sisa_scale.models.mixers.grouped_heads import GroupedHeads
from sisa_scale.models.mixers.head_norm import HeadNorm
from sisa_scale.models.mixers.rotary import rotate_by_position
from sisa_scale.models.row_parts import RowPart, stacked

PADDING = 1 << 60
"""The position of padding: later than any token, so that no token sees it; it sees itself, so no row is empty."""


@dataclass(slots=True)
class AttentionCache:
    """The rotated keys and the values of tokens that a later token may see, and how many tokens there were."""

    keys_BSGK: Tensor
    values_BSGJ: Tensor
    position_BS: Tensor
    num_tokens_B: Tensor

    def keep(self, kept_S: Tensor) -> None:
        """Drop all other tokens."""
        self.keys_BSGK, self.values_BSGJ = self.keys_BSGK[:, kept_S], self.values_BSGJ[:, kept_S]
        self.position_BS = self.position_BS[:, kept_S]


class LocalAttention(nn.Module):
    """The attention path of a layer: it reads `channels` of a projection as [q | k | v]; its weights are gains."""

    def __init__(self, model: ModelConfig, backend: str, layer: int) -> None:
        super().__init__()
        config = model.hymba
        assert config is not None
        self.num_heads, self.kv_heads = model.num_heads, config.kv_heads(model.num_heads)
        self.head_width = self.key_width = model.head_width
        self.value_width = config.inner_width(model.d_model) // model.num_heads
        self.backend = backend
        self.scale = self.head_width**-0.5
        self.window_tokens = 0 if config.is_global(layer, model.num_layers) else config.window_tokens
        self.num_first_tokens = config.num_meta_tokens
        self.widths = [
            self.num_heads * self.head_width,
            self.kv_heads * self.head_width,
            self.kv_heads * self.value_width,
        ]
        self.query_norm, self.key_norm = HeadNorm(model), HeadNorm(model)
        self.exchange = GroupedHeads(self.num_heads, self.kv_heads, self.num_first_tokens)

    @property
    def channels(self) -> int:
        """Channels of the projection that are this path's."""
        return sum(self.widths)

    def parts(self) -> dict[str, RowPart]:
        """Return the parts of this path's rows of the projection."""
        return stacked(dict(zip("qkv", self.widths, strict=True)))

    def forward(self, qkv_BLC: Tensor, cos_sin_2LK: Tensor, document_BL: Tensor | None = None) -> Tensor:
        """Return (B, L, H J); cos_sin_2LK are those of `position_cos_sin`.

        document_BL numbers the document of every token; a token sees its own document's and the first tokens alone.
        """
        return self.exchange.to_tokens(self._attend(*self._heads(self._to_heads(qkv_BLC), cos_sin_2LK), document_BL))

    def extend(
        self, qkv_BLC: Tensor, cache: AttentionCache, cos_sin_2BLK: Tensor, is_token_BL: Tensor | None = None
    ) -> Tensor:
        """Return what `forward` would for these L tokens after those in the cache; the cache then holds them, too."""
        q_BLHK, k_BLGK, v_BLGJ = self._heads(qkv_BLC.split(self.widths, dim=-1), cos_sin_2BLK)
        position_BL = self._append(cache, k_BLGK, v_BLGJ, is_token_BL)
        sees_BLS = self._sees(position_BL, cache.position_BS)
        out = self._attend_masked(q_BLHK, cache.keys_BSGK, cache.values_BSGJ, sees_BLS)
        self._forget(cache)
        return out

    def new_cache(self, batch: int, device: torch.device, dtype: torch.dtype) -> AttentionCache:
        """Return the cache of rows that hold no token yet; `dtype` is that of the projection's result."""
        return AttentionCache(
            keys_BSGK=torch.zeros(batch, 0, self.kv_heads, self.key_width, device=device, dtype=dtype),
            values_BSGJ=torch.zeros(batch, 0, self.kv_heads, self.value_width, device=device, dtype=dtype),
            position_BS=torch.zeros(batch, 0, device=device, dtype=torch.long),
            num_tokens_B=torch.zeros(batch, device=device, dtype=torch.long),
        )

    def _to_heads(self, projected_BLC: Tensor) -> tuple[Tensor, ...]:
        """Return what is projected to queries, for this worker's heads, and to the rest, for all that these read."""
        of_queries, *of_keys = projected_BLC.split(self.widths, dim=-1)
        return self.exchange.to_groups((of_queries,), of_keys)

    def _heads(self, qkv: Sequence[Tensor], cos_sin_2LK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys, rotated by their positions, and values."""
        q, k, v = qkv
        q_BLHK, k_BLGK = (x.unflatten(-1, (-1, self.key_width)) for x in (q, k))
        q_BLHK, k_BLGK = self.query_norm.content(q_BLHK), self.key_norm.content(k_BLGK)
        q_BLHK, k_BLGK = (rotate_by_position(x, cos_sin_2LK).to(v.dtype) for x in (q_BLHK, k_BLGK))
        return q_BLHK, k_BLGK, v.unflatten(-1, (-1, self.value_width))

    def _attend(self, q_BLHK: Tensor, k_BLGK: Tensor, v_BLGJ: Tensor, document_BL: Tensor | None) -> Tensor:
        """Return (B, L, H J) for a whole sequence, by the chosen kernel where every token sees all of its past."""
        length = q_BLHK.shape[1]
        is_cut = bool(self.window_tokens) and length > self.window_tokens + self.num_first_tokens
        if is_cut or document_BL is not None:
            # The layers of a model ask for one mask. A compiled graph holds no such memory and makes its own.
            make = visible.__wrapped__ if torch.compiler.is_compiling() else visible
            sees_1LL = make(length, self.window_tokens, self.num_first_tokens, q_BLHK.device)[None]
            sees = sees_1LL if document_BL is None else sees_1LL & self._shares(document_BL, document_BL)
            return self._attend_masked(q_BLHK, k_BLGK, v_BLGJ, sees)
        k_BLHK, v_BLHJ = self.exchange.for_every_head(k_BLGK), self.exchange.for_every_head(v_BLGJ)
        if self.backend == "flash" or self.backend.endswith("_padded"):
            # These kernels want equal widths; channels of zeros leave the scores as they are.
            width = max(self.key_width, self.value_width)
            q_BLHK, k_BLHK, v_BLHJ = (pad(t, (0, width - t.shape[-1])) for t in (q_BLHK, k_BLHK, v_BLHJ))
        out_BLHJ = attend(q_BLHK, k_BLHK, v_BLHJ, scale=self.scale, backend=self.backend)
        return out_BLHJ[..., : self.value_width].flatten(2)

    @torch.no_grad()
    def initialise(self, rows: Tensor, std: float) -> None:
        """Begin with gains of 1. `rows` of the projection are this path's, drawn from N(0, std^2) already."""
        self.query_norm.initialise()
        self.key_norm.initialise()

    def _sees(self, query: Tensor, key: Tensor) -> Tensor:
        """Return whether the token at a query's position, (..., L), sees the one at a key's, (..., S): (..., L, S)."""
        return sees(query, key, self.window_tokens, self.num_first_tokens)

    def _shares(self, query_BL: Tensor, key_BS: Tensor) -> Tensor:
        """Return which keys, counted from the first token, are of a query's document or first tokens: (B, L, S)."""
        is_first_S = torch.arange(key_BS.shape[1], device=key_BS.device) < self.num_first_tokens
        return (query_BL[:, :, None] == key_BS[:, None, :]) | is_first_S

    def _attend_masked(self, q_BLHK: Tensor, k_BSGK: Tensor, v_BSGJ: Tensor, sees_BLS: Tensor) -> Tensor:
        """Return (B, L, H J) for an explicit mask, (B, L, S) or (1, L, S); not every kernel takes one."""
        q_BHLK, k_BHSK, v_BHSJ = (
            t.transpose(1, 2) for t in (q_BLHK, *map(self.exchange.for_every_head, (k_BSGK, v_BSGJ)))
        )
        is_efficient = q_BLHK.is_cuda and self.backend != "math"
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION if is_efficient else SDPBackend.MATH):
            out_BHLJ = scaled_dot_product_attention(
                q_BHLK, k_BHSK, v_BHSJ, attn_mask=sees_BLS[:, None], scale=self.scale
            )
        return out_BHLJ.transpose(1, 2).flatten(2)

    def _append(self, cache: AttentionCache, k_BLGK: Tensor, v_BLGJ: Tensor, is_token_BL: Tensor | None) -> Tensor:
        """Take keys and values into the cache; return the positions of their tokens, (B, L)."""
        if is_token_BL is None:
            is_token_BL = torch.ones(k_BLGK.shape[:2], device=k_BLGK.device, dtype=torch.bool)
        counted_BL = cache.num_tokens_B[:, None] + is_token_BL.cumsum(1)
        position_BL = (counted_BL - 1).masked_fill(~is_token_BL, PADDING)
        cache.keys_BSGK = torch.cat((cache.keys_BSGK, k_BLGK), 1)
        cache.values_BSGJ = torch.cat((cache.values_BSGJ, v_BLGJ), 1)
        cache.position_BS = torch.cat((cache.position_BS, position_BL), 1)
        cache.num_tokens_B = counted_BL[:, -1]
        return position_BL

    def _forget(self, cache: AttentionCache) -> None:
        """Drop what the next token, and so any later one, does not see: once a window, for it makes a GPU wait."""
        if self.window_tokens and cache.position_BS.shape[1] > 2 * (self.window_tokens + self.num_first_tokens):
            cache.keep(self._sees(cache.num_tokens_B[:, None], cache.position_BS).any(1).any(0))


@lru_cache(maxsize=1)
def visible(length: int, window_tokens: int, num_first_tokens: int, device: torch.device) -> Tensor:
    """Return which tokens of a sequence every token sees, (L, L)."""
    position_L = torch.arange(length, device=device)
    return sees(position_L, position_L, window_tokens, num_first_tokens)
