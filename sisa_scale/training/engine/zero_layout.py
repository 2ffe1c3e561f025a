"""Which parts of which tensors a rank holds under each ZeRO stage, as views that a checkpoint reads and fills.

Stage 0 keeps everything on every rank; stages 1 and 2 keep contiguous fragments of flattened groups; stage 3 keeps
one padded partition of every parameter. Adam's moments lie exactly as the fp32 weights do.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sisa_scale.checkpoint.manifest import KINDS
from sisa_scale.checkpoint.slices import CheckpointReader, Slice
from sisa_scale.training.engine.engine import Engine

_MOMENTS = KINDS[1:]


def owned_slices(engine: Engine) -> Iterator[Slice]:
    """Yield what this rank must write, so that all ranks together write every element once."""
    rank, world_size = engine.workers.rank, engine.workers.world_size
    for piece in local_slices(engine):
        if engine.config.execution.zero_stage > 0:
            yield piece
            continue
        size = piece.values.numel()
        low, high = size * rank // world_size, size * (rank + 1) // world_size
        if low < high:
            yield Slice(piece.kind, piece.name, low, piece.values[low:high])


def local_slices(engine: Engine) -> Iterator[Slice]:
    """Yield views of all fp32 weights and moments on this rank."""
    stage = engine.config.execution.zero_stage
    for name, parameter in engine.model.named_parameters():
        views = {0: _whole, 1: _fragment, 2: _fragment, 3: _partition}[stage](engine, parameter)
        for kind, (start, values) in views.items():
            yield Slice(kind, name, start, values)


def load_moments(engine: Engine, reader: CheckpointReader, steps: int) -> None:
    """Give Adam the moments of a checkpoint and the number of steps it has taken."""
    optimizer = engine.optimizer
    counts_on_device = any(group["fused"] for group in optimizer.param_groups)
    for flat in _optimizer_tensors(engine):
        count = torch.tensor(float(steps), device=flat.device if counts_on_device else "cpu")
        optimizer.state[flat] = {"step": count, **{kind: torch.zeros_like(flat) for kind in _MOMENTS}}
    for piece in local_slices(engine):
        if piece.kind != "weight":
            piece.values.copy_(reader.read(piece.kind, piece.name, piece.start, piece.values.numel()))


def _optimizer_tensors(engine: Engine) -> list[Tensor]:
    if engine.config.execution.zero_stage == 3:
        # The groups of the optimizer are filled one at a time during a step; these are what they are filled with.
        return list(engine.engine.optimizer.fp32_partitioned_groups_flat)
    return [tensor for group in engine.optimizer.param_groups for tensor in group["params"]]


def _whole(engine: Engine, parameter: Tensor) -> dict[str, tuple[int, Tensor]]:
    return {kind: (0, tensor.detach().view(-1)) for kind, tensor in _with_moments(engine, parameter).items()}


def _fragment(engine: Engine, parameter: Any) -> dict[str, tuple[int, Tensor]]:
    mapping = parameter._hp_mapping
    if mapping is None:  # all of this parameter lies on other ranks
        return {}
    flat = engine.engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    start, address = mapping.lp_fragment_address.start, mapping.hp_fragment_address
    return {kind: (start, t.narrow(0, address.start, address.numel)) for kind, t in _with_moments(engine, flat).items()}


def _partition(engine: Engine, parameter: Any) -> dict[str, tuple[int, Tensor]]:
    size = parameter.ds_tensor.numel()
    start = size * engine.workers.rank
    length = min(size, parameter.ds_numel - start)
    if length <= 0:  # this rank's partition is nothing but padding
        return {}
    wrapper = engine.engine.optimizer
    group, offset, _ = wrapper.grad_position[wrapper.get_param_id(parameter)]
    flat = wrapper.fp32_partitioned_groups_flat[group]
    return {kind: (start, t.narrow(0, offset, length)) for kind, t in _with_moments(engine, flat).items()}


def _with_moments(engine: Engine, weight: Tensor) -> dict[str, Tensor]:
    # Adam makes its moments in its first update, which does not come with the first step if that one is skipped.
    state = engine.optimizer.state.get(weight) or {kind: torch.zeros_like(weight) for kind in _MOMENTS}
    return {"weight": weight, **{kind: state[kind] for kind in _MOMENTS}}
