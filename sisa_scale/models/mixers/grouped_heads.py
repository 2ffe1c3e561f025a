"""Heads that share keys and values in groups (Ainslie et al. 2023, 2305.13245), and the gate on what they return.

Shapes: B batch, L length, M keys, H heads, G groups, C any channels, E channels of all heads.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sisa_scale.models.sequence_parallel import HeadExchange


class GroupedHeads(HeadExchange):
    """The exchange between tokens and heads, where query heads share the keys of their group.

    If the workers that share a sequence divide the groups, each has its part of them; else each has all, and repeats
    those of its own query heads.
    """

    def __init__(self, num_heads: int, kv_heads: int, num_first_tokens: int = 0) -> None:
        super().__init__(num_first_tokens)
        self.num_heads, self.kv_heads = num_heads, kv_heads

    @property
    def _divides_groups(self) -> bool:
        return self.kv_heads % self.size == 0

    @property
    def own_kv_heads(self) -> int:
        """Groups that this worker has now."""
        return self.kv_heads // self.size if self._divides_groups else self.kv_heads

    def to_groups(self, of_queries: Sequence[Tensor], of_keys: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return all tokens, (B, L, C) each, of this worker's query heads, and of the groups that these read."""
        if self._divides_groups:
            return self.to_heads((*of_queries, *of_keys))
        return self.to_heads(of_queries, of_keys)

    def for_every_head(self, x_BMG: Tensor) -> Tensor:
        """Repeat what groups have, (B, M, G, ...), for the query heads of this worker, (B, M, H, ...)."""
        repeats = self.num_heads // self.kv_heads
        x_BMH = x_BMG if repeats == 1 else x_BMG.repeat_interleave(repeats, dim=2)
        return x_BMH if self._divides_groups else self.own(x_BMH, dim=2)

    def of_groups(self, parameter_G: Tensor) -> Tensor:
        """Return a parameter of which every group has its own, for the groups of this worker."""
        return self.own(parameter_G) if self._divides_groups else parameter_G


def gated(x_BLE: Tensor, gate_BLC: Tensor) -> Tensor:
    """Return heads times the sigmoid of their gate (Qiu et al. 2025, 2505.06708), of a channel for each or a head.

    Without channels of a gate they are returned as they are.
    """
    if not gate_BLC.shape[-1]:
        return x_BLE
    return (x_BLE.unflatten(-1, (gate_BLC.shape[-1], -1)) * torch.sigmoid(gate_BLC)[..., None]).flatten(-2)
