"""What a block keeps for its backward pass when it computes the rest again: activation checkpointing.

none        everything that the backward pass reads
selective   results of dense products and of attention kernels, and what other workers sent; norms, rotations, gates,
            importance channels and the scans of state-space models are computed again
full        the block's input alone
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from sisa_scale.compat.torch import overload
from sisa_scale.config.execution import Recomputation
from sisa_scale.models.kernels.flash4 import flash4
from sisa_scale.models.sequence_parallel import all_to_all

_KEPT = frozenset(
    (
        torch.ops.aten.mm.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten._scaled_mm.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
        overload(flash4),
        overload(all_to_all),
    )
)


def selective_policy(_context: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    """Return whether `selective` keeps the result of an operator."""
    return CheckpointPolicy.MUST_SAVE if operator in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE


Checkpoint = Callable[..., Tensor]


def activation_checkpointed(
    function: Callable[..., Tensor], how: Recomputation | Checkpoint, *inputs: Tensor
) -> Tensor:
    """Return function(*inputs), which keeps for the backward pass what `how` says.

    how: one of the above, or a function in the place of torch's `checkpoint`.
    """
    if how == "none" or not torch.is_grad_enabled():
        return function(*inputs)
    if callable(how):
        return how(function, *inputs)
    if how == "full":
        return checkpoint(function, *inputs, use_reentrant=False)
    contexts = partial(create_selective_checkpoint_contexts, selective_policy)
    return checkpoint(function, *inputs, use_reentrant=False, context_fn=contexts)
