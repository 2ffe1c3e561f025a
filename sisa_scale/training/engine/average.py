"""The exponential moving average of the weights: kept as a state of the optimizer, and put in place to be evaluated.

It lies as the optimizer's other states do under every ZeRO stage, on the host if those are, and in checkpoints.
"""

from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sisa_scale.config.optimizers.spec import AVERAGE

_SWAPPED_ELEMENTS = 2**24  # copied at a time


@torch.no_grad()
def update_average(optimizer: Optimizer, decay: float) -> None:
    """Move the average of the weights that were just updated: average = decay * average + (1 - decay) * weight."""
    for weight, average in _pairs(_at_hand(optimizer), optimizer.state):
        average.lerp_(weight, 1 - decay)


@torch.no_grad()
def swap_average(optimizer: Optimizer) -> None:
    """Exchange this worker's weights and their average, in place; twice leaves every bit as it was."""
    for weight, average in _pairs(list(optimizer.state), optimizer.state):
        pairs = zip(weight.view(-1).split(_SWAPPED_ELEMENTS), average.view(-1).split(_SWAPPED_ELEMENTS), strict=True)
        for one, other in pairs:
            kept = one.clone()
            one.copy_(other)
            other.copy_(kept)


def _at_hand(optimizer: Optimizer) -> Iterator[Tensor]:
    """Yield the weights of this update: DeepSpeed calls an optimizer for one group or tensor after the other."""
    for group in optimizer.param_groups:
        yield from group["params"]


def _pairs(weights: Iterable[Tensor], states: MutableMapping[Tensor, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    for weight in weights:
        if AVERAGE in states.get(weight, {}):
            yield weight.detach(), states[weight][AVERAGE]
