"""The peak memory of a run on one GPU, by term, before it runs.

A step is followed through its phases; the peak is that of the phase that needs most:

    loss        the end of the forward pass: everything saved, the logits of a chunk, and their gradient
    backward    of every block: what the blocks before it saved, and the most that its own backward pass holds
    gradients   the end of the backward pass, and their reduction
    update      the optimizer's step

Activations come from `planning.memory.tracing`, states from `planning.memory.zero_memory`. What torch does not allocate
itself is beside the peak: the CUDA context, NCCL, and what the allocator holds without using it. Those three are
assumptions.

Not followed: kernels' workspaces, ZeRO-3's prefetching, evaluations during the run. The scan of `mamba_ssm` is planned
as our own, which keeps more.
"""

import math
from dataclasses import dataclass

from sisa_scale.config.model import ModelConfig
from sisa_scale.config.run import RunConfig
from sisa_scale.models.kernels.sdpa import portable_backend
from sisa_scale.models.meta import parameter_shapes
from sisa_scale.planning.devices import Gpu
from sisa_scale.planning.memory.activation_breakdown import by_use
from sisa_scale.planning.memory.tracing import PartMemory, Setting, trace_block, trace_norm
from sisa_scale.planning.memory.zero_memory import FP32_BYTES, Terms, ZeroStates, joined

CONTEXT_BYTES = 500_000_000
NCCL_BYTES = 500_000_000
RESERVE_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes on one GPU: the phase with the peak, its terms, and what comes on top of what torch allocates.

    kernel: the SDPA kernel that is counted with; host_bytes: of an offloaded optimizer, for each worker.
    """

    phase: str
    terms: Terms
    outside: Terms
    kernel: str
    host_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        """What `torch.cuda.max_memory_allocated` is to report."""
        return sum(self.terms.values())

    @property
    def needed_bytes(self) -> int:
        """What the GPU must have."""
        return self.peak_bytes + sum(self.outside.values())


def plan_memory(config: RunConfig, gpu: Gpu | None = None) -> MemoryPlan:
    """Return the plan of a run; the GPU tells which attention kernel `auto` will be, None assumes cuDNN's.

    Takes seconds for each kind of block that was not traced before.
    """
    kernel = expected_kernel(config, gpu)
    setting = _setting(config, kernel)
    shapes, spec = parameter_shapes(config), config.optimizer.spec
    states = ZeroStates(
        sum(map(math.prod, shapes.values())),
        config.execution.zero_stage,
        config.resources.workers,
        config.accumulation_steps,
        spec.state_elements(shapes),
        sum(math.prod(shapes[name]) for name in spec.whole(shapes)),
        config.execution.offload_optimizer,
        config.execution.reshard_after_forward,
    )
    blocks, norm = trace_blocks(config, setting), trace_norm(config.model, setting)
    phases = _phases(config, setting, states, blocks, norm)
    name = max(phases, key=lambda phase: sum(phases[phase].values()))
    outside = {"CUDA context": CONTEXT_BYTES, "NCCL": NCCL_BYTES if config.resources.workers > 1 else 0}
    outside["unused by the allocator"] = round(RESERVE_SHARE * sum(phases[name].values()))
    return MemoryPlan(name, phases[name], joined(outside), kernel, states.on_host)


def activations_by_use(config: RunConfig, gpu: Gpu | None = None) -> Terms:
    """Return what the blocks keep of one micro-batch for its backward pass, by use."""
    blocks = trace_blocks(config, _setting(config, expected_kernel(config, gpu)))
    return by_use(config, (block.held for block in blocks), config.execution.micro_batch_sequences)


def expected_kernel(config: RunConfig, gpu: Gpu | None = None) -> str:
    """Return the SDPA kernel that a run will use on a GPU, by what was measured on GPUs of its generation."""
    execution, is_augmented = config.execution, config.model.sisa is not None
    if execution.attention_backend != "auto":
        return execution.attention_backend
    is_portable = execution.determinism == "strict" or config.data.documents == "separate"
    if is_portable or execution.precision == "fp32" or (gpu is not None and not gpu.has_fast_cudnn):
        return portable_backend("cuda", execution.precision, is_augmented=is_augmented)
    return "cudnn"


def trace_blocks(config: RunConfig, setting: Setting) -> list[PartMemory]:
    """Return the memory of every layer; layers alike are traced once."""
    model, traced, blocks = config.model, dict[object, PartMemory](), []
    for layer in range(model.num_layers):
        how = config.execution.recomputation(layer)
        kind = (_kind(model, layer), how)
        if kind not in traced:
            traced[kind] = trace_block(model, layer, setting, how)
        blocks.append(traced[kind])
    return blocks


def _kind(model: ModelConfig, layer: int) -> object:
    return model.mixers[layer], model.spec(layer).variant(model, layer)


def _setting(config: RunConfig, kernel: str) -> Setting:
    return Setting(
        sequence_tokens=config.data.sequence_tokens,
        precision=config.execution.precision,
        compiled=config.execution.compile,
        kernel=kernel,
        is_separate=config.data.documents == "separate",
        sequence_parallel_size=config.execution.sequence_parallel_size,
        float8=config.execution.float8_products,
    )


def _phases(
    config: RunConfig, setting: Setting, states: ZeroStates, blocks: list[PartMemory], norm: PartMemory
) -> dict[str, Terms]:
    sequences, base = config.execution.micro_batch_sequences, states.persistent
    # The embedding is the head, too: the gradient from there waits for that of the embedding.
    head, stream = _Head.of(config, setting), _stream_bytes(config, setting)
    saved = [block.saved.at(sequences) for block in blocks]
    kept = sum(saved) + stream
    weight = FP32_BYTES * head.weight_params
    phases = {"update": joined(base, states.update)}
    phases["loss"] = joined(
        base, states.forward, {"activations": kept + norm.saved.at(sequences), "logits and loss": head.forward_bytes}
    )
    transient = norm.backward_peak.at(sequences)
    phases["backward of the norm"] = joined(
        base, states.backward(0), {"activations": kept + transient, "embedding gradients": 2 * weight}
    )
    done = 0
    for layer in reversed(range(len(blocks))):
        kept -= saved[layer]
        peak = blocks[layer].backward_peak.at(sequences)
        terms: Terms = {
            "activations": kept + saved[layer],
            "working memory of a block": peak - saved[layer],
            "embedding gradients": weight,
        }
        phases[f"backward of block {layer}"] = joined(base, states.backward(done), terms)
        done += blocks[layer].params
        forward = blocks[layer].forward_peak.at(sequences)
        before: Terms = {"activations": kept, "working memory of a block": forward}
        phases[f"forward of block {layer}"] = joined(base, states.forward, before)
    whole: Terms = {"embedding gradients": 2 * weight}
    phases["end of the backward pass"] = joined(base, states.backward(states.params - head.weight_params), whole)
    phases["reduction of the gradients"] = joined(base, states.backward(states.params))
    return phases


def _stream_bytes(config: RunConfig, setting: Setting) -> int:
    """Return the bytes of what the first block reads, and of the mask that packed documents share."""
    sequences, model = config.execution.micro_batch_sequences, config.model
    length, width = config.data.sequence_tokens, setting.dtype.itemsize
    has_mask = setting.is_separate and any(spec.takes_mask for spec in model.specs)
    stream = (setting.own_tokens + model.num_meta_tokens) * model.d_model
    return sequences * width * (stream + (length**2 if has_mask else 0))


@dataclass(frozen=True, slots=True)
class _Head:
    """Bytes of `linear_cross_entropy`, which holds the logits of a chunk and their gradient."""

    weight_params: int
    forward_bytes: int

    @classmethod
    def of(cls, config: RunConfig, setting: Setting) -> "_Head":
        model, width = config.model, setting.dtype.itemsize
        tokens = config.execution.micro_batch_sequences * setting.own_tokens
        chunk = min(tokens, config.execution.loss_chunk_tokens)
        weight = model.padded_vocab_size * model.d_model
        logits = width * chunk * model.padded_vocab_size * 2
        copy = width * weight if width < FP32_BYTES else 0
        forward = logits + copy + FP32_BYTES * weight + width * tokens * model.d_model
        return cls(weight, forward)
