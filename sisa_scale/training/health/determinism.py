"""Runs that repeat themselves.

`execution.determinism: strict` makes two runs of the same recipe equal in every loss and every weight to the last bit,
on the same kind of device, with the same versions, number of workers, ZeRO stage and micro-batch. It asks PyTorch for
deterministic kernels (an operation without one raises an error that names it), gives cuBLAS a workspace of fixed size,
and takes no choice by timing: neither cuDNN's, nor the compiler's, nor that of the SDPA kernel.

With `fast`, and across numbers of workers or ZeRO stages with either, the same tokens are trained on in the same order,
but sums are taken in another order: losses agree within 2e-3 nats under bf16 over short runs (tests/multiprocess), and
drift apart slowly over long ones.
"""

import os

import torch

from sisa_scale.compat.torch import make_compiler_deterministic
from sisa_scale.config.execution import ExecutionConfig


def apply_determinism(execution: ExecutionConfig) -> None:
    """Set PyTorch up for the process; call it before the device is first used."""
    is_strict = execution.determinism == "strict"
    if is_strict:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.backends.cudnn.benchmark = False
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        if execution.compile:
            make_compiler_deterministic()
    torch.backends.cudnn.deterministic = is_strict
    torch.use_deterministic_algorithms(is_strict)
