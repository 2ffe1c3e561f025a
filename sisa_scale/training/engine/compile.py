"""torch.compile of a model's blocks. Equal blocks share one graph."""

import warnings
from typing import Any

import torch
from torch import nn

from sisa_scale.compat.torch import allow_graphs
from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.errors import SisaScaleWarning
from sisa_scale.models.kernels.materialize import store_in_kernels

_GRAPHS_PER_BLOCK = 2


def compile_settings(execution: ExecutionConfig) -> dict[str, Any]:
    """Return how a run has its blocks compiled.

    Strides stay as they are: where torch 2.11 pads those that are no multiple of a cache line, gradients of Hymba are
    wrong on an H100, since what lies in the padding enters them. FusedLinear makes the products wide enough.
    """
    options = {"comprehensive_padding": False}
    if execution.compile_tuning:
        options["coordinate_descent_tuning"] = True
    if uses_cuda_graphs(execution):
        options |= {"triton.cudagraphs": True, "triton.cudagraph_or_error": True}
    return {"options": options}


def compile_blocks(blocks: nn.ModuleList, **settings: Any) -> None:
    """Have every block compiled when it first runs; `settings` are those of torch.compile.

    All blocks have the same code, of which torch compiles 8 graphs and then runs it uncompiled, with no more than a
    warning. A model may have as many kinds of blocks as it has layers (model.sisa.d_s), so the limit grows with them.
    """
    store_in_kernels()
    keep_backward_out_of_autocast()
    allow_graphs(_GRAPHS_PER_BLOCK * len(blocks))
    for block in blocks:
        # Its forward alone: hooks of DeepSpeed gather weights around it.
        block.forward = torch.compile(block.forward, **settings)


def keep_backward_out_of_autocast() -> None:
    """Have backward passes that are traced from now on compute in the dtypes of the forward pass, as eager ones do.

    torch traces them under the autocast that surrounds the forward pass, where products of the backward pass ignore an
    inner `autocast(enabled=False)`: gradients of prefix sums and scans would be taken in bf16. The switch is private;
    torch 2.11 to 2.13 have it.
    """
    from torch._functorch import config

    if not hasattr(config, "backward_pass_autocast"):
        warnings.warn(
            f"torch {torch.__version__} has no torch._functorch.config.backward_pass_autocast, so compiled blocks take "
            "gradients of prefix sums and scans in bf16, not in fp32. Use torch 2.11 to 2.13, or write "
            "execution.compile: false.",
            SisaScaleWarning,
            stacklevel=2,
        )
        return
    config.backward_pass_autocast = "off"


def uses_cuda_graphs(execution: ExecutionConfig) -> bool:
    """Return whether blocks run as CUDA graphs here."""
    return execution.cuda_graphs and torch.cuda.is_available()


def begin_cuda_graphs() -> None:
    """Say that a forward pass begins, and that nothing in the memory of the last one's graphs is read any more."""
    torch.compiler.cudagraph_mark_step_begin()


def keep_gradients(blocks: nn.ModuleList) -> None:
    """Have gradients outlive the graphs that make them.

    Autograd takes a weight's first gradient as it is, where the next replay writes its own; later ones are added to it.
    """

    def keep(weight: nn.Parameter) -> None:
        weight.register_hook(lambda gradient: gradient.clone() if weight.grad is None else gradient)

    for weight in blocks.parameters():
        keep(weight)
