"""Private parts of DeepSpeed, checked with 0.19.8. pyproject.toml keeps it in that minor series.

Only the engine and checkpoints may import this: it is DeepSpeed's layout of weights that they read and fill.
"""

import logging
import math
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Fragment(NamedTuple):
    """The elements of a parameter from `start` on that this rank has: `length` of `flat` from `offset` on.

    flat: the tensor that the optimizer updates, and has its states for; other parameters may lie in it, too.
    """

    start: int
    length: int
    flat: Tensor
    offset: int


def import_deepspeed() -> Any:
    """Import DeepSpeed, quiet and without what needs a C++ compiler at its first use.

    The operator for shared memory is one of those; gloo does the same work. DeepSpeed takes an operator for absent by a
    table that it keeps for itself.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    import_muon_uncompiled()
    __compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


def import_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon, which is not used here, as it is but for `torch.compile` around its functions.

    DeepSpeed imports it with every optimizer, and the decorator imports the compiler: 5 to 9 seconds, 3.8 of them
    computing, at every start on two cores. `deepspeed.runtime.compiler.compile` asks torch.compile as it is then.
    """
    compile_ = torch.compile
    torch.compile = lambda function: function  # type: ignore[assignment]
    try:
        import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    finally:
        torch.compile = compile_


def partitioned_gradient_norm(engine: Any) -> float:
    """Return the gradient norm of a whole step under the stages 1 to 3, NaN if it is not finite.

    The public `get_global_grad_norm` is told of it after the step alone; the guard asks before.
    """
    wrapper = engine.optimizer
    return math.nan if wrapper.overflow else float(wrapper._global_grad_norm)


def spread_weights(engine: Any, stage: int) -> None:
    """Give the model on all ranks the weights that the optimizers of the ranks hold, after those were written to.

    What a step does at its end; public functions (`safe_set_full_fp32_param`) take one parameter at a time.
    """
    wrapper = engine.optimizer
    if stage in (1, 2):
        wrapper.update_lp_params()
    elif stage == 3:
        wrapper._partition_all_parameters()
        for sub_group in range(len(wrapper.fp16_groups)):
            wrapper._reassign_or_swap_out_partitioned_parameters(sub_group)
        if wrapper.persistent_parameters:
            wrapper.persistent_parameters[0].all_gather(wrapper.persistent_parameters)


def held_fragment(engine: Any, parameter: Any, stage: int, rank: int) -> Fragment | None:
    """Return what this rank has of a parameter; None, or under stage 3 a length of 0, if it has nothing of it.

    Stage 0 keeps everything on every rank; stages 1 and 2 keep contiguous fragments of flattened groups; stage 3 keeps
    one padded partition of every parameter. DeepSpeed's public access (`safe_get_full_fp32_param`) gathers whole
    tensors with all ranks, one after the other.
    """
    wrapper = engine.optimizer
    if stage == 0:
        return Fragment(0, parameter.numel(), parameter, 0)
    if stage < 3:
        mapping = parameter._hp_mapping
        if mapping is None:  # all of this parameter lies on other ranks
            return None
        flat = wrapper.single_partition_of_fp32_groups[mapping.param_group_index]
        address = mapping.hp_fragment_address
        return Fragment(mapping.lp_fragment_address.start, address.numel, flat, address.start)
    size = parameter.ds_tensor.numel()
    start = size * rank
    length = max(0, min(size, parameter.ds_numel - start))  # 0 where this rank's partition is nothing but padding
    group, offset, _ = wrapper.grad_position[wrapper.get_param_id(parameter)]
    return Fragment(start, length, wrapper.fp32_partitioned_groups_flat[group], offset)
