"""The cache of a decoder in the shape that `generate` asks for."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from sisa_scale.models.decoder import DecoderCache


class SisaScaleCache(Cache):  # type: ignore[misc]
    """The decoder's own cache, which is exact for every mixer."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.decoder: DecoderCache | None = None
        self.num_tokens = 0

    is_compileable = False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the columns of input ids taken in so far, padding included."""
        return self.num_tokens

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """It grows."""
        return -1

    def reset(self) -> None:
        """Forget all tokens."""
        self.decoder, self.num_tokens = None, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the rows of a beam search, in their new order."""
        if self.decoder is not None:
            _take_rows(self.decoder, beam_idx, self.decoder.length_B.shape[0])

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        if self.decoder is not None:
            rows = torch.arange(self.decoder.length_B.shape[0], device=self.decoder.length_B.device)
            self.reorder_cache(rows.repeat_interleave(repeats))

    def crop(self, *_: Any) -> None:
        """Recurrent states cannot go back: assisted decoding is refused."""
        raise ValueError("this cache cannot forget tokens, so assisted decoding is not possible")


def _take_rows(value: Any, rows: Tensor, batch: int) -> None:
    """Reorder every tensor of a cache along its first dimension, in place, whatever mixer it belongs to."""
    for name in _attributes(value):
        inner = getattr(value, name)
        if isinstance(inner, Tensor):
            if inner.shape[0] == batch:
                setattr(value, name, inner.index_select(0, rows.to(inner.device)))
        elif isinstance(inner, list):
            for item in inner:
                _take_rows(item, rows, batch)
        elif hasattr(inner, "__slots__") or hasattr(inner, "__dict__"):
            _take_rows(inner, rows, batch)


def _attributes(value: Any) -> list[str]:
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*slots, *getattr(value, "__dict__", {})]
