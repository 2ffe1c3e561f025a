"""torch.compile of a model's blocks. Equal blocks share one graph."""

from typing import Any

import torch
from torch import nn

from sisa_scale.config.execution import ExecutionConfig

_GRAPHS_PER_BLOCK = 2


def compile_settings(execution: ExecutionConfig) -> dict[str, Any]:
    """Return how a run has its blocks compiled.

    Strides stay as they are: where torch 2.11 pads those that are no multiple of a cache line, gradients of Hymba are
    wrong on an H100, since what lies in the padding enters them. FusedLinear makes the products wide enough.
    """
    options = {"comprehensive_padding": False}
    return {"options": {**options, "coordinate_descent_tuning": True} if execution.compile_tuning else options}


def compile_blocks(blocks: nn.ModuleList, **settings: Any) -> None:
    """Have every block compiled when it first runs; `settings` are those of torch.compile.

    All blocks have the same code, of which torch compiles 8 graphs and then runs it uncompiled, with no more than a
    warning. A model may have as many kinds of blocks as it has layers (model.sisa.d_s), so the limit grows with them.
    """
    from torch._dynamo import config  # takes seconds to import, and no run that does not compile needs it

    config.recompile_limit = max(config.recompile_limit, _GRAPHS_PER_BLOCK * len(blocks))
    for block in blocks:
        # Its forward alone: hooks of DeepSpeed gather weights around it.
        block.forward = torch.compile(block.forward, **settings)
