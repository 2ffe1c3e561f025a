"""Private parts of torch, checked with 2.11 (CUDA) and 2.13 (CPU). What is slow to import, a function imports."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import _resolve_process_group
from torch.distributed import ProcessGroup
from torch.distributed.distributed_c10d import GroupName


def overload(operator: Any) -> Any:
    """Return the overload that a graph calls of an operator made with `torch.library.custom_op`."""
    return operator._opoverload


def process_group(name: str) -> ProcessGroup:
    """Return a process group by its name: operators take text, not groups, where the compiler reads them."""
    return _resolve_process_group(GroupName(name))


def lower_as_stored_copy(operator: Any) -> None:
    """Have kernels of torch.compile write what the operator copies where it stays, without a copy."""
    from torch._inductor.lowering import lowerings, register_lowering

    def in_place_of_copy(x: Any) -> Any:
        result = lowerings[torch.ops.aten.clone.default](x)
        result.realize()
        return result

    register_lowering(overload(operator), type_promotion_kind=None)(in_place_of_copy)


def allow_graphs(num: int) -> None:
    """Let torch compile at least so many graphs of one code; beyond its limit it runs uncompiled, with a warning."""
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, num)


def make_compiler_deterministic() -> None:
    """Have torch.compile take no choice by timing."""
    from torch._inductor import config

    config.deterministic = True


def nccl_trace() -> bytes:
    """Return what NCCL's flight recorder holds, pickled; raises ImportError or RuntimeError without one."""
    from torch._C._distributed_c10d import _dump_nccl_trace  # type: ignore[attr-defined]

    return bytes(_dump_nccl_trace())


def record_memory_history(*, is_on: bool) -> None:
    """Begin or end to keep the GPU's allocations with the Python stacks that made them, the newest 100,000."""
    if is_on:
        torch.cuda.memory._record_memory_history(max_entries=100_000, stacks="python")
    else:
        torch.cuda.memory._record_memory_history(enabled=None)


def write_memory_snapshot(path: Path) -> None:
    """Write what the GPU's allocator holds, and the history of it where one is kept."""
    torch.cuda.memory._dump_snapshot(str(path))


def spin_gpu(cycles: int) -> None:
    """Keep the GPU busy for so many cycles, so that the CPU gets a head start."""
    torch.cuda._sleep(cycles)


def storage_key(value: Tensor) -> int:
    """Return a number of the storage: that of a fake tensor has no address."""
    return int(value.untyped_storage()._cdata)
