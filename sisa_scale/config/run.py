"""The whole of a run as one frozen value, and the rules that hold between its sections."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sisa_scale.config.data import DataConfig
from sisa_scale.config.execution import FLOAT8_MULTIPLE, ExecutionConfig, ResourcesConfig
from sisa_scale.config.fields import Parsed, Violation, setting, values_of
from sisa_scale.config.mixers.table import mixer_specs
from sisa_scale.config.model import ModelConfig
from sisa_scale.config.observation import CheckpointConfig, EvaluationConfig, ObservationConfig, WandbConfig
from sisa_scale.config.optimizer import OptimizerConfig, ScheduleConfig
from sisa_scale.config.reliability import GuardConfig, WatchdogConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One run: everything that decides what happens, and nothing else."""

    name: str = setting("name of the run")
    description: str = setting("what the run is for", default="")
    run_dir: str | None = setting("run directory; null means runs/<name>", default=None)
    seed: int = setting("seed of the initial weights", default=0, minimum=0)
    begin_from: str | None = setting(
        "run or checkpoint to take the initial weights from, at the same or a greater length; null draws "
        "random weights",
        default=None,
    )
    twin_of: str | None = setting(
        "recipe that this one is matched to: model.d_ff is solved, unless the same file or an override sets it",
        default=None,
    )
    match: Literal["parameters", "nonembedding_parameters", "flops"] = setting(
        "quantity matched between twins; flops counts FLOPs per token", default="parameters"
    )
    model: ModelConfig = setting("the architecture and its size")
    data: DataConfig = setting("which tokens in which order")
    optimizer: OptimizerConfig = setting("how weights are updated")
    schedule: ScheduleConfig = setting("length of the run and learning rate")
    execution: ExecutionConfig = setting("memory and speed of a step")
    resources: ResourcesConfig = setting("workers and Ray", default_factory=ResourcesConfig)
    checkpoint: CheckpointConfig = setting("what is saved", default_factory=CheckpointConfig)
    guard: GuardConfig = setting("skipped steps and rollbacks at a bad loss or gradient", default_factory=GuardConfig)
    watchdog: WatchdogConfig = setting("when a worker counts as hung", default_factory=WatchdogConfig)
    evaluation: EvaluationConfig = setting("evaluation tasks and monitors", default_factory=EvaluationConfig)
    observation: ObservationConfig = setting("where a living run is looked at", default_factory=ObservationConfig)
    wandb: WandbConfig = setting("Weights & Biases", default_factory=WandbConfig)

    @property
    def directory(self) -> Path:
        """The run directory."""
        return Path(self.run_dir) if self.run_dir else Path("runs") / self.name

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.data.batches.steps(self.schedule.total)

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole run."""
        return self.data.batches.tokens_before(self.total_steps)

    @property
    def accumulation_steps(self) -> int:
        """Micro-steps of one optimizer step on each worker, after a ramp of the global batch."""
        groups = self.resources.workers // self.execution.sequence_parallel_size
        return self.data.global_batch_sequences // (groups * self.execution.micro_batch_sequences)

    def with_workers(self, workers: int) -> "RunConfig":
        """Return the same run on a fixed number of workers, as an attempt carries it out."""
        resources = dataclasses.replace(self.resources, workers=workers, min_workers=None)
        return dataclasses.replace(self, resources=resources)

    def violations(self) -> Iterator[Violation]:
        """Rules between sections."""
        yield from self._batch_rules()
        if self.execution.sequence_parallel_size > 1:
            yield from self._sharing_rules()
        yield from self._length_rules()
        yield from self._schedule_rules()
        yield from self._backend_rules()
        yield from self._kernel_rules()
        if self.execution.float8_products:
            yield from self._float8_rules()
        yield from self._determinism_rules()
        yield from self._retention_rules()
        if self.data.documents == "separate":
            yield from self._document_rules()

    def _batch_rules(self) -> Iterator[Violation]:
        sizes = self.resources.worker_range
        sharing = self.execution.sequence_parallel_size
        unit = max(1, math.lcm(*sizes) // sharing) * self.execution.micro_batch_sequences
        for key, found, tokens in self.data.stated_batches():
            sequences = tokens // self.data.sequence_tokens
            if sequences % unit == 0:
                continue
            nearest = max(1, round(sequences / unit)) * unit * self.data.sequence_tokens
            workers = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(self.resources.workers)
            shared = f" / {sharing} that share a sequence" if sharing > 1 else ""
            micro_batch = self.execution.micro_batch_sequences
            yield Violation(
                f"data.{key}",
                f"{found} ({sequences} sequences)",
                f"must divide over {workers} workers{shared} x {micro_batch} micro_batch_sequences",
                f"Change one of the three; the nearest global_batch_tokens is {nearest}.",
            )

    def _sharing_rules(self) -> Iterator[Violation]:
        size, key = self.execution.sequence_parallel_size, "execution.sequence_parallel_size"
        for what, number in self._shared_numbers().items():
            if number % size:
                yield Violation(
                    key, f"{size} with {what} {number}", "must divide it", f"Write a divisor of {number}, or 1."
                )
        for spec in self.model.specs:
            if not spec.shared_heads(self.model):
                yield Violation(key, f"{size} with {spec.name}", "this mixer reads whole sequences", "Write 1.")
        if self.resources.min_workers is not None:
            yield Violation(
                "resources.min_workers",
                f"{self.resources.min_workers} with {key} {size}",
                "the workers that share sequences are a fixed number",
                "Write null.",
            )

    def _shared_numbers(self) -> dict[str, int]:
        """Return all that the workers that share a sequence divide among them."""
        numbers = {"resources.workers": self.resources.workers, "data.sequence_tokens": self.data.sequence_tokens}
        for spec in self.model.specs:
            numbers |= spec.shared_heads(self.model)
        return numbers

    def _length_rules(self) -> Iterator[Violation]:
        limit = self.model.max_length_tokens
        if self.data.sequence_tokens > limit:
            yield Violation(
                "data.sequence_tokens",
                str(self.data.sequence_tokens),
                f"must be at most model.max_length_tokens {limit}",
                "Shorten the sequences or raise model.max_length_tokens.",
            )
        if (self.evaluation.context_tokens or 0) > limit:
            yield Violation(
                "evaluation.context_tokens",
                str(self.evaluation.context_tokens),
                f"must be at most model.max_length_tokens {limit}",
                "Shorten it or raise model.max_length_tokens.",
            )
        longest = max(self.evaluation.needle_lengths, default=0)
        if longest > limit and "needle" in self.evaluation.tasks:
            yield Violation(
                "evaluation.needle_lengths",
                str(longest),
                f"must be at most model.max_length_tokens {limit}",
                "Remove the longer lengths, or raise model.max_length_tokens.",
            )

    def _backend_rules(self) -> Iterator[Violation]:
        # The math kernel adds its mask to masked scores, which may be infinite beyond this range; the others select.
        sisa = self.model.sisa
        if sisa is not None and sisa.decay_range_nats > 80 and self.execution.attention_backend == "math":
            yield Violation(
                "execution.attention_backend",
                f"math with model.sisa.decay_range_nats {sisa.decay_range_nats}",
                "the math kernel is finite up to 80 nats",
                "Choose another backend or a range of at most 80.",
            )

        backend = self.execution.attention_backend
        for spec in self.model.specs:
            if backend in spec.unfit_backends:
                reason = spec.unfit_backends[backend]
                yield Violation("execution.attention_backend", f"{backend} with {spec.name}", reason, "Write auto.")

    def _kernel_rules(self) -> Iterator[Violation]:
        kernel = self.execution.state_space_kernel
        served = [spec.name for spec in mixer_specs() if kernel in spec.state_space_kernels]
        if kernel != "pytorch" and not set(served) & set(self.model.mixers):
            yield Violation(
                "execution.state_space_kernel",
                f"{kernel} with {', '.join(sorted(set(self.model.mixers)))}",
                f"serves the recurrences of {', '.join(served)}",
                "Write pytorch.",
            )
        if kernel == "flash_linear_attention" and self.execution.precision == "fp32":
            yield Violation(
                "execution.state_space_kernel",
                "flash_linear_attention with execution.precision fp32",
                "its kernels compute in 16-bit floats",
                "Write pytorch, or precision: bf16.",
            )

    def _float8_rules(self) -> Iterator[Violation]:
        tokens = self.data.sequence_tokens // self.execution.sequence_parallel_size + self.model.num_meta_tokens
        sequences = self.execution.micro_batch_sequences
        if sequences * tokens % FLOAT8_MULTIPLE:
            yield Violation(
                "execution.float8_products",
                f"true with {sequences} x {tokens} tokens in a micro-batch of a worker",
                f"the gradients of weights are sums over a multiple of {FLOAT8_MULTIPLE} tokens",
                "Change execution.micro_batch_sequences or data.sequence_tokens, or write false.",
            )

    def _determinism_rules(self) -> Iterator[Violation]:
        if self.execution.determinism == "fast":
            return
        if self.execution.attention_backend in ("cudnn", "cudnn_padded", "flash_4"):
            yield Violation(
                "execution.attention_backend",
                f"{self.execution.attention_backend} with execution.determinism strict",
                "the backward pass of this kernel is not deterministic",
                "Write auto, flash, efficient or math.",
            )
        if self.execution.compile_tuning:
            yield Violation(
                "execution.compile_tuning",
                "true with execution.determinism strict",
                "its choices are by timing, and another choice sums in another order",
                "Write false.",
            )
        if self.execution.state_space_kernel != "pytorch":
            yield Violation(
                "execution.state_space_kernel",
                f"{self.execution.state_space_kernel} with execution.determinism strict",
                "its kernels may add with atomics and are tuned by timing",
                "Write pytorch.",
            )

    def _retention_rules(self) -> Iterator[Violation]:
        evaluation = self.evaluation
        if self.checkpoint.keep_best and not ("loss" in evaluation.tasks and evaluation.every_steps):
            yield Violation(
                "checkpoint.keep_best",
                f"{self.checkpoint.keep_best} with evaluation.tasks {list(evaluation.tasks)} and "
                f"evaluation.every_steps {evaluation.every_steps}",
                "the best are those with the lowest held-out loss, which must be measured during the run",
                "Add loss to evaluation.tasks and evaluate every so many steps, or write keep_best 0.",
            )

        step = math.lcm(self.checkpoint.every_steps, evaluation.every_steps) if evaluation.every_steps else 0
        if self.checkpoint.keep_best and evaluation.every_steps and not 0 < step <= self.total_steps:
            yield Violation(
                "checkpoint.keep_best",
                f"{self.checkpoint.keep_best} with checkpoint.every_steps {self.checkpoint.every_steps} and "
                f"evaluation.every_steps {evaluation.every_steps}, of {self.total_steps} steps",
                "the best are chosen among steps that are both saved and evaluated, and there is none"
                + (" (which steps every_seconds saves is not known)" if self.checkpoint.every_seconds else ""),
                f"Write a checkpoint.every_steps that {evaluation.every_steps} divides, or keep_best 0.",
            )

    def _document_rules(self) -> Iterator[Violation]:
        sisa, found = self.model.sisa, "separate"
        if sisa is not None and sisa.form == "published":
            yield Violation(
                "data.documents",
                f"{found} with model.sisa.form published",
                "the published form reads documents together: its anchor spans the whole sequence",
                "Write joined, or another form.",
            )
        if self.model.num_meta_tokens:
            yield Violation(
                "data.documents",
                f"{found} with model.hymba.num_meta_tokens {self.model.num_meta_tokens}",
                "every document would have to begin after the meta tokens, in the states, too",
                "Write joined, or num_meta_tokens 0.",
            )
        # The mask is added to the scores: those that it hides must not overflow to infinity.
        if sisa is not None and sisa.is_within_logit and sisa.decay_range_nats > 80:
            yield Violation(
                "data.documents",
                f"{found} with model.sisa.decay_range_nats {sisa.decay_range_nats}",
                "the kernels that take a document mask are finite up to 80 nats",
                "Write joined, or a range of at most 80.",
            )
        if self.execution.attention_backend != "auto" and any(spec.uses_sdpa for spec in self.model.specs):
            yield Violation(
                "execution.attention_backend",
                f"{self.execution.attention_backend} with data.documents separate",
                "not every kernel takes a document mask, so there is none to choose",
                "Write auto: the memory-efficient kernel on a GPU, the math kernel on a CPU.",
            )

    def _schedule_rules(self) -> Iterator[Violation]:
        batches, schedule = self.data.batches, self.schedule
        total, warmup = batches.steps(schedule.total), batches.steps(schedule.warmup)
        decay = batches.final_steps(schedule.decay, total)
        if total < 1:
            yield Violation(
                "schedule.total",
                str(self.schedule.total),
                f"must be at least one step of {batches.tokens(0)} tokens",
                "Lengthen it.",
            )
        elif warmup + (decay if self.schedule.has_final_decay else 0) > total:
            yield Violation(
                "schedule.warmup",
                f"{warmup} steps of warm-up and {decay} of decay",
                f"together they must fit into the total of {total} steps",
                "Shorten them or lengthen schedule.total.",
            )


def to_plain(config: Any) -> Any:
    """Turn a section into dicts, lists and scalars as they would stand in YAML."""
    if isinstance(config, Parsed):
        return config.to_plain()
    if isinstance(config, Mapping):
        return {name: to_plain(inner) for name, inner in config.items()}
    if dataclasses.is_dataclass(config):
        return {name: to_plain(value) for name, value in values_of(config).items()}
    return [to_plain(item) for item in config] if isinstance(config, tuple) else config


def config_hash(config: Any) -> str:
    """Return the SHA-256 of a section's canonical JSON: equal settings, equal hash, wherever they were written."""
    return hashlib.sha256(json.dumps(to_plain(config), sort_keys=True).encode()).hexdigest()
