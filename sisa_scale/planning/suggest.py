"""Which micro-batch, ZeRO stage, resharding and activation checkpointing fit a GPU, and which of them are fastest."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

from sisa_scale.config.run import RunConfig
from sisa_scale.planning.communication import Network
from sisa_scale.planning.devices import Gpu
from sisa_scale.planning.memory.estimate import MemoryPlan, plan_memory
from sisa_scale.planning.speed import MEASURED_MICRO_BATCH_TOKENS, plan_time

Checkpointing = Literal["none", "selective", "full"] | int
CHECKPOINTING = cast(tuple[Checkpointing, ...], ("none", "selective", 4, 2, "full"))
TUNED = (
    "micro_batch_sequences",
    "zero_stage",
    "reshard_after_forward",
    "activation_checkpointing",
    "sequence_parallel_size",
)
LARGEST_MICRO_BATCH_TOKENS = 131_072
MOST_WORKERS = 4096
SHARING = (2, 4, 8)  # GPUs of a node that may share sequences


@dataclass(frozen=True, slots=True)
class Option:
    """A way to carry out a run: its settings, as overrides of what stands in the recipe, memory and speed."""

    config: RunConfig
    memory: MemoryPlan
    tokens_per_second: float
    changes: tuple[str, ...]


def options(config: RunConfig, gpu: Gpu, network: Network) -> list[Option]:
    """Return all that fit, the fastest first.

    Of those as fast, larger micro-batches come first, up to where their speed was measured, then what changes least.
    """
    return sorted(_fitting(config, config, gpu, network), key=_rank)


def smallest_change(config: RunConfig, gpu: Gpu, network: Network) -> Option | None:
    """Return what fits with the fewest settings changed, the fastest of those; None when nothing fits.

    Workers that share sequences and more workers are changes, too, and tried when nothing else helps.
    """
    for variant in _variants(config):
        if fitting := _fitting(config, variant, gpu, network):
            return min(fitting, key=lambda option: (len(option.changes), _rank(option)))
    return None


def _variants(config: RunConfig) -> Iterator[RunConfig]:
    """Yield a run as it is, with sequences that more and more of its workers share, and so with twice the workers."""
    workers = config.resources.workers
    while workers <= MOST_WORKERS:
        resources = config.resources
        if workers != resources.workers:
            resources = dataclasses.replace(resources, workers=workers, min_workers=None)
        for sharing in dict.fromkeys((config.execution.sequence_parallel_size, *SHARING)):
            execution = dataclasses.replace(config.execution, sequence_parallel_size=sharing)
            yield dataclasses.replace(config, resources=resources, execution=execution)
        workers *= 2


def _fitting(original: RunConfig, variant: RunConfig, gpu: Gpu, network: Network) -> list[Option]:
    """Return the ways to carry out a variant of a run that break no rule and fit."""
    allowed = (candidate for candidate in _candidates(variant) if not any(candidate.violations()))
    return [option for candidate in allowed if (option := _option(original, candidate, gpu, network)) is not None]


def _candidates(config: RunConfig) -> list[RunConfig]:
    groups = config.resources.workers // config.execution.sequence_parallel_size
    share = config.data.global_batch_sequences // groups if groups else 0
    most = max(1, LARGEST_MICRO_BATCH_TOKENS // config.data.sequence_tokens)
    own = config.execution.micro_batch_sequences
    sizes = [size for size in range(1, min(share, most) + 1) if share % size == 0 and (size & (size - 1) == 0)]
    sizes = sorted({*sizes, own}) if own <= share and share % own == 0 else sizes
    checkpointing = dict.fromkeys((config.execution.activation_checkpointing, *CHECKPOINTING))
    is_resharded = config.execution.reshard_after_forward
    stages = [(stage, is_resharded) for stage in range(4)]
    if config.resources.workers > 1:
        stages.append((3, not is_resharded))
    return [
        dataclasses.replace(
            config,
            execution=dataclasses.replace(
                config.execution,
                micro_batch_sequences=size,
                zero_stage=cast(Literal[0, 1, 2, 3], stage),
                reshard_after_forward=reshards,
                activation_checkpointing=mode,
            ),
        )
        for size in sizes
        for stage, reshards in stages
        for mode in checkpointing
    ]


def _option(original: RunConfig, candidate: RunConfig, gpu: Gpu, network: Network) -> Option | None:
    memory = plan_memory(candidate, gpu)
    if memory.needed_bytes > gpu.memory_bytes:
        return None
    changes = [
        f"execution.{key}={str(getattr(candidate.execution, key)).lower()}"
        for key in TUNED
        if getattr(candidate.execution, key) != getattr(original.execution, key)
    ]
    if candidate.resources.workers != original.resources.workers:
        changes.append(f"resources.workers={candidate.resources.workers}")
    return Option(candidate, memory, plan_time(candidate, gpu, network).tokens_per_second, tuple(changes))


def _rank(option: Option) -> tuple[float, int, int, int]:
    config = option.config
    measured = min(config.execution.micro_batch_sequences * config.data.sequence_tokens, MEASURED_MICRO_BATCH_TOKENS)
    speed = float(f"{option.tokens_per_second:.3g}")  # what differs by less is as fast
    return -speed, -measured, len(option.changes), option.memory.needed_bytes
