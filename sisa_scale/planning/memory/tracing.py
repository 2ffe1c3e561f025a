"""What one block holds in memory, found by running it on tensors without data.

A block of the model itself is built at its full width and run forward and backward at full length, on fake tensors:
every operation is carried out for shapes and types alone. So whatever the modules keep for the backward pass is counted
as they keep it, in every form and under every control, and a change of the model changes the plan.

Two ways of running are followed:

    eager      every result is its own allocation, freed when nothing refers to it: exact up to workspaces of kernels
    compiled   what torch.compile keeps, by its own partition (the minimum cut) of the block's graph; which results
               are fused and never stored is then told by a rule (`planning.memory.liveness`):
                compiling needs the device

The operations are those of a CPU but for attention, which is the GPU's kernel. Bytes are an affine function of the
sequences in a micro-batch. A trace at a large prime number of sequences gives both parts: sizes that it divides grow
with the batch.
"""

import dataclasses
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sisa_scale.config.execution import Recomputation
from sisa_scale.config.model import ModelConfig
from sisa_scale.models.activation_checkpointing import selective_policy
from sisa_scale.models.block import Block, RMSNorm
from sisa_scale.models.kernels.float8 import use_float8
from sisa_scale.models.registry import build_mixer
from sisa_scale.models.sequence_parallel import HeadExchange, SequenceGroup
from sisa_scale.planning.memory.allocations import Allocations
from sisa_scale.planning.memory.amounts import Amount, Held
from sisa_scale.planning.memory.gpu_attention import GpuAttention
from sisa_scale.planning.memory.liveness import graph_memory

SEQUENCES = 10_007  # a prime beyond all widths, heads and chunks


@dataclass(frozen=True, slots=True)
class Setting:
    """What a trace depends on besides the model.

    kernel: an SDPA kernel as in `execution.attention_backend`, but auto; is_separate: documents are read apart;
    sequence_parallel_size: GPUs that share the `sequence_tokens` of a sequence; float8: as in
    `execution.float8_products`.
    """

    sequence_tokens: int
    precision: str
    compiled: bool
    kernel: str
    is_separate: bool
    sequence_parallel_size: int = 1
    float8: bool = False

    @property
    def own_tokens(self) -> int:
        """Tokens of a sequence on one GPU."""
        return self.sequence_tokens // self.sequence_parallel_size

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the residual stream."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


@dataclass(frozen=True, slots=True)
class PartMemory:
    """Bytes of a block or a norm.

    held: what is kept from the forward to the backward pass, the result included, input and parameters not; result: of
    that, the result; forward_peak: the most at a time of the forward pass; backward_peak: the most at a time of the
    backward pass, with what is kept, the gradient that comes in, and the gradients that are made.
    """

    params: int
    held: tuple[Held, ...]
    result: Amount
    forward_peak: Amount
    backward_peak: Amount

    @property
    def saved(self) -> Amount:
        """All that is held."""
        return sum((held.amount for held in self.held), Amount())


@lru_cache(maxsize=256)
def trace_block(model: ModelConfig, layer: int, setting: Setting, how: Recomputation = "none") -> PartMemory:
    """Return the bytes of a block under activation checkpointing."""
    if how == "full" and setting.compiled:
        memory = trace_block(model, layer, setting)
        again = max(memory.forward_peak, memory.backward_peak)
        return dataclasses.replace(memory, held=(Held("result", memory.result),), backward_peak=again)
    length = setting.sequence_tokens + model.num_meta_tokens
    with FakeTensorMode(), _autocast(setting):
        own = setting.own_tokens + model.num_meta_tokens
        inputs = [_empty(own, model.d_model, setting), torch.empty(2, length, model.rotary_width // 2)]
        if setting.is_separate:
            inputs.append(torch.zeros(SEQUENCES, length, dtype=torch.int32))
            if model.spec(layer).takes_mask:
                inputs.append(torch.empty(SEQUENCES, length, length, dtype=setting.dtype))
        if setting.compiled:
            return _compiled(_block(model, layer, setting, "none"), inputs, how)
        return _eager(_block(model, layer, setting, how), inputs)


@lru_cache(maxsize=64)
def trace_norm(model: ModelConfig, setting: Setting) -> PartMemory:
    """Return the bytes of the norm after the last block, which is never compiled."""
    with FakeTensorMode(), _autocast(setting):
        x_BLD = _empty(setting.own_tokens, model.d_model, setting)
        return _eager(RMSNorm(model.d_model, model.norm_epsilon), [x_BLD])


def _block(model: ModelConfig, layer: int, setting: Setting, how: Recomputation) -> Block:
    block = Block(model, build_mixer(model, layer, setting.kernel), recomputation=how)
    if setting.float8:
        use_float8(block)
    if setting.sequence_parallel_size > 1:
        for exchange in (module for module in block.modules() if isinstance(module, HeadExchange)):
            exchange.group = SequenceGroup("planned", setting.sequence_parallel_size, 0)
    forward = block._forward

    def with_gpu_attention(*inputs: Tensor) -> Tensor:
        with GpuAttention(setting.kernel):  # here, as autograd leaves such modes when it recomputes
            return forward(*inputs)

    vars(block)["_forward"] = with_gpu_attention
    return block


def _empty(length: int, width: int, setting: Setting) -> Tensor:
    return torch.empty(SEQUENCES, length, width, dtype=setting.dtype, requires_grad=True)


def _autocast(setting: Setting) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=setting.precision == "bf16")


def _eager(module: torch.nn.Module, inputs: list[Tensor]) -> PartMemory:
    tracker = Allocations([*module.parameters(), *inputs], SEQUENCES)
    with tracker.counting():
        result = module(*inputs)
        held, forward_peak = tracker.held(), tracker.restart()
        torch.autograd.backward(result, torch.empty_like(result))
        size = Amount.of(result.untyped_storage().nbytes(), SEQUENCES)
        return PartMemory(_params(module), held, size, forward_peak, tracker.peak)


def _compiled(block: Block, inputs: list[Tensor], how: Recomputation) -> PartMemory:
    from torch._functorch._aot_autograd.utils import make_boxed_func
    from torch._functorch.aot_autograd import aot_function
    from torch._inductor.decomposition import select_decomp_table

    names, parameters = zip(*block.named_parameters(), strict=True)
    graphs: list[torch.fx.GraphModule] = []

    def keep(gm: torch.fx.GraphModule, example_inputs: Any) -> Callable[..., Any]:
        graphs.append(gm)
        boxed: Callable[..., Any] = make_boxed_func(gm)
        return boxed

    def run(*tensors: Tensor) -> Tensor:
        named = dict(zip(names, tensors[len(inputs) :], strict=True))
        result: Tensor = torch.func.functional_call(block, named, tensors[: len(inputs)])
        return result

    places = range(len(inputs), len(inputs) + len(parameters))
    partition, table = partial(_partition, how, places), select_decomp_table()
    result = aot_function(run, keep, keep, partition_fn=partition, decompositions=table)(*inputs, *parameters)
    if len(graphs) == 1:  # the backward graph is not made before it is needed
        torch.autograd.backward(result, torch.empty_like(result))
    forward, backward = graphs
    return PartMemory(_params(block), *graph_memory(forward, backward, SEQUENCES))


def _partition(how: Recomputation, parameters: range, joint: torch.fx.GraphModule, inputs: Any, **settings: Any) -> Any:
    """Split the graph of both passes as `torch.compile` does, which has such marks from activation checkpointing.

    It simplifies the graph first. To keep parameters, the inputs at these places, costs nothing: they are there anyway.
    """
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.fx_passes.joint_graph import joint_graph_passes

    joint_graph_passes(joint)
    settings["static_lifetime_input_indices"] = list(parameters)

    for node in joint.graph.nodes if how == "selective" else ():
        if node.op == "call_function" and node.meta.get("partitioner_tag") == "is_forward":
            source = node.args[0] if node.target is operator.getitem else node
            node.meta |= {"recompute": selective_policy(None, source.target), "ac_graph_id": 0}
    return min_cut_rematerialization_partition(joint, inputs, **settings)


def _params(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
