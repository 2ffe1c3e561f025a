"""Sequence parallelism (DeepSpeed-Ulysses, Jacobs et al. 2023, 2309.14509): the workers of a group share sequences.

Outside a mixer a worker has all heads of its part of the tokens, inside it has all tokens of its part of the heads. So
a head is computed whole, by one worker: prefix sums, states, masks and attention kernels are those of one worker, and
so is the result. All that is sent are two exchanges of heads for tokens, one before and one after.

Tokens that stand before every sequence (Hymba's meta tokens) are not divided: every worker has a copy, and each head
reads that of its own worker. What the copies give to the loss adds up to what one would.

Only training shares: in evaluation mode every worker reads whole sequences of its own.

Shapes: B batch, L length, C channels, P workers of a group. Before `to_heads` and after `to_tokens` L counts a worker's
own tokens, in between all of them; the first tokens come on top.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sisa_scale.compat.torch import process_group

# Operators belong to this module by name: its copy in an exported model, loaded in the same process, has its own.
_NAMESPACE = re.sub(r"\W", "_", __name__)


@dataclass(frozen=True, slots=True)
class SequenceGroup:
    """Workers that share sequences: torch's name of their process group, their number, and which of them this one is.

    The worker of rank r has the r-th part of the tokens, and the r-th part of the heads.
    """

    name: str
    size: int
    rank: int


class HeadExchange(nn.Module):
    """Between tokens and heads. Does nothing without a group, or in evaluation mode.

    num_first_tokens: so many tokens before every sequence are each worker's own.
    """

    group: SequenceGroup | None = None

    def __init__(self, num_first_tokens: int = 0) -> None:
        super().__init__()
        self.num_first_tokens = num_first_tokens

    @property
    def size(self) -> int:
        """Number of workers that share a sequence now."""
        return self.group.size if self.group is not None and self.training else 1

    def to_heads(self, of_heads: Sequence[Tensor], of_all: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """Return all tokens of what is given for this worker's tokens.

        of_heads: (B, L, C), whose channels are those of the first head, of the second, and so on: this worker's part of
        them is returned. of_all: (B, L, C) that all heads read, returned whole.
        """
        if self.group is None or self.size == 1:
            return *of_heads, *of_all
        size, num_first = self.size, self.num_first_tokens
        parts = [x_BLC.unflatten(-1, (size, x_BLC.shape[-1] // size)) for x_BLC in of_heads]
        parts += [x_BLC[:, :, None].expand(-1, -1, size, -1) for x_BLC in of_all]
        x_BLPC = torch.cat(parts, dim=-1)
        x_BLC = self._exchanged(x_BLPC[:, num_first:].movedim(2, 0)).movedim(0, 1).flatten(1, 2)
        if num_first:
            x_BLC = torch.cat((x_BLPC[:, :num_first, self.group.rank], x_BLC), dim=1)
        return x_BLC.split([x.shape[-1] for x in parts], dim=-1)

    def to_tokens(self, x_BLC: Tensor) -> Tensor:
        """Return what all workers computed, each for its heads, for this worker's tokens."""
        if self.size == 1:
            return x_BLC
        num_first = self.num_first_tokens
        sent_PBLC = x_BLC[:, num_first:].unflatten(1, (self.size, -1)).movedim(1, 0)
        if num_first:
            sent_PBLC = torch.cat((x_BLC[:, :num_first].expand(self.size, -1, -1, -1), sent_PBLC), dim=2)
        return self._exchanged(sent_PBLC).movedim(0, 2).flatten(2)

    def own(self, parameter: Tensor, dim: int = 0) -> Tensor:
        """Return this worker's part of a parameter of which every head has its own."""
        if self.size == 1:
            return parameter
        assert self.group is not None
        return parameter.chunk(self.size, dim)[self.group.rank]

    def _exchanged(self, sent_PBLC: Tensor) -> Tensor:
        assert self.group is not None
        received: Tensor = all_to_all(sent_PBLC.contiguous(), self.group.name)
        return received


@torch.library.custom_op(f"{_NAMESPACE}::all_to_all", mutates_args=())
def all_to_all(x_PX: Tensor, group: str) -> Tensor:
    """Return what each worker of a group, by its name, sends this one: of each its x[rank of this one]."""
    x_PX = x_PX.contiguous()  # where a compiler has it laid out otherwise
    received_PX = torch.empty_like(x_PX)
    dist.all_to_all_single(received_PX, x_PX, group=process_group(group))
    return received_PX


@all_to_all.register_fake
def _shape(x_PX: Tensor, group: str) -> Tensor:
    return x_PX.new_empty(x_PX.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
    ctx.group = inputs[1]


def _gradient(ctx: Any, gradient_PX: Tensor) -> tuple[Tensor, None]:
    return all_to_all(gradient_PX, ctx.group), None


all_to_all.register_autograd(_gradient, setup_context=_keep)
