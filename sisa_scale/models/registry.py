"""The mixers of a model as modules: what each must have, and how it is built from its description.

Shapes: B batch, L length, D width.
"""

from typing import Any, Protocol, Self, cast, runtime_checkable

import torch
from torch import Tensor

from sisa_scale.config.model import ModelConfig
from sisa_scale.config.places import imported


@runtime_checkable
class MixerModule(Protocol):
    """What the decoder asks of a mixer, an nn.Module."""

    @classmethod
    def build(cls, model: ModelConfig, layer: int, attention_backend: str) -> Self:
        """Return the mixer of a layer, with weights undefined."""
        ...

    def forward(self, x_BLD: Tensor, cos_sin_2LK: Tensor, *documents: Tensor) -> Tensor:
        """Mix along the length, strictly causally; cos_sin_2LK are those of `position_cos_sin`.

        documents: none, or the number of every token's document (B, L), each to be read as if alone; with `takes_mask`
        then the mask of `document_mask`.
        """
        ...

    def new_cache(self, batch: int, device: torch.device, dtype: torch.dtype) -> Any:
        """Return the cache of rows that hold no token yet."""
        ...

    def extend(self, x_BLD: Tensor, cache: Any, cos_sin_2BLK: Tensor, is_token_BL: Tensor | None) -> Tensor:
        """Return what `forward` would for these tokens after those in the cache; the cache then holds them, too.

        False in is_token_BL marks padding before the first token of a row; it has no influence.
        """
        ...

    def initialise(self, std: float, generator: torch.Generator) -> None:
        """Fill all weights."""
        ...


@runtime_checkable
class HasStateSpaceKernel(Protocol):
    """A part of a mixer whose recurrence a kernel of another package may compute on a GPU."""

    def use_kernel(self, name: str) -> None:
        """Take the kernel of `execution.state_space_kernel`, PyTorch's products where that does not serve it."""
        ...


def build_mixer(config: ModelConfig, layer: int, attention_backend: str) -> MixerModule:
    """Return the mixer of a layer, with weights undefined."""
    module = cast(type[MixerModule], imported(config.spec(layer).module))
    return module.build(config, layer, attention_backend)
