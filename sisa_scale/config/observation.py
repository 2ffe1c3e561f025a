"""Sections `checkpoint`, `evaluation`, `observation` and `wandb`: what a run keeps and shows of itself."""

import ipaddress
from dataclasses import dataclass
from typing import Literal

from sisa_scale.config.fields import setting
from sisa_scale.config.tasks import task_names

WRITERS = ("wandb", "tensorboard")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """When checkpoints are written, where, and which are kept; a run that is stopped always writes one."""

    every_steps: int = setting(
        "steps between checkpoints; 0 writes only the last, and those of every_seconds", default=1000, minimum=0
    )
    every_seconds: float | None = setting(
        "seconds after a checkpoint (or the first step of an attempt) until the next is due, by the main worker's "
        "clock; it also counts those of every_steps; null saves by steps alone",
        default=None,
        above=0,
    )
    at_end: bool = setting("write a checkpoint after the last step; false is for benchmarks", default=True)
    asynchronous: bool = setting("write checkpoints in the background, from a copy in host memory", default=True)
    keep_last: int = setting("number of newest checkpoints to keep; 0 keeps all", default=3, minimum=0)
    keep_every_steps: int = setting("also keep every N-th step's checkpoint; 0 turns this off", default=0, minimum=0)
    at_steps: tuple[int, ...] = setting(
        "steps at which a checkpoint is written and never removed, as branches need them",
        default=(),
        minimum=1,
    )
    keep_best: int = setting(
        "number of checkpoints with the lowest held-out loss to keep as well", default=0, minimum=0
    )
    retry_seconds: float = setting(
        "how long the last checkpoint of a run is tried again, every 5 seconds, where the disk refuses it",
        default=600.0,
        minimum=0,
    )
    directory: str | None = setting(
        "directory or URL (s3://, gs://) for the checkpoints of this run alone; null is the run directory",
        default=None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """What is measured in training and at the end."""

    every_steps: int = setting("steps between evaluations; 0 evaluates only at the end", default=1000, minimum=0)
    at_start: bool = setting("also evaluate before the first step, as step 0", default=False)
    monitor_every_steps: int = setting(
        "steps between monitor readings of SISA layers (half-life, lambda, largest logits, norms of B and"
        " C, phase change per step, gradient shares); 0 turns them off",
        default=100,
        minimum=0,
    )
    tasks: tuple[str, ...] = setting(
        "tasks to score",
        default=("loss", "lambada", "needle"),
        choices=task_names,
    )
    samples: tuple[str, ...] = setting(
        "prompts that are continued at every evaluation by the most probable tokens; they stand in the report",
        default=(),
    )
    sample_tokens: int = setting("tokens by which each of them is continued", default=64, minimum=1)
    context_tokens: int | None = setting(
        "longest context that is scored; null is data.sequence_tokens",
        default=None,
        minimum=2,
    )
    batch_sequences: int = setting("sequences per evaluation pass and worker", default=8, minimum=1)
    num_heldout_sequences: int = setting("held-out sequences of the loss task", default=128, minimum=1)
    lambada_path: str | None = setting(
        "LAMBADA as JSON lines, or openai to fetch it once; null scores a cloze set made from held-out text",
        default=None,
    )
    num_cloze_items: int = setting("largest number of passages of the lambada task", default=5153, minimum=1)
    questions_directory: str | None = setting(
        "directory with hellaswag.jsonl, arc_easy.jsonl, piqa.jsonl, winogrande.jsonl; null skips these tasks",
        default=None,
    )
    num_questions: int = setting("largest number of questions per task", default=20000, minimum=1)
    num_needle_items: int = setting("number of items per length of the tasks of retrieval", default=100, minimum=1)
    needle_lengths: tuple[int, ...] = setting(
        "context lengths of the needle task in tokens", default=(512, 1024, 2048), minimum=32
    )
    context_multiples: tuple[float, ...] = setting(
        "contexts of needle-curve, needle-multikey and variable-tracking, as multiples of data.sequence_tokens; those "
        "beyond model.max_length_tokens are skipped",
        default=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
        above=0.0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservationConfig:
    """Where a run that lives can be looked at. May change on resume; nothing here changes a number of the training."""

    writers: tuple[str, ...] = setting(
        "who is told of every step and score: wandb, as section wandb says, and tensorboard, with files in the run"
        " directory",
        default=("wandb",),
        choices=lambda: WRITERS,
    )
    health_every_steps: int = setting(
        "steps between readings of every layer: norms of gradients and activations, largest attention logits, size of"
        " updates; 0 turns them off",
        default=0,
        minimum=0,
    )
    metrics_port: int | None = setting(
        "port at which the main worker serves metrics to Prometheus; the next free one where it is taken; null serves"
        " none",
        default=None,
        minimum=1,
        maximum=65535,
    )
    metrics_address: str = setting(
        "address at which metrics are served; 127.0.0.1 answers this machine alone, 0.0.0.0 everyone",
        default="127.0.0.1",
    )

    @property
    def is_reachable(self) -> bool:
        """Whether another machine can fetch the metrics."""
        if self.metrics_port is None or self.metrics_address == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.metrics_address).is_loopback
        except ValueError:  # the name of a host
            return True


@dataclass(frozen=True, kw_only=True, slots=True)
class WandbConfig:
    """Weights & Biases; the run keeps one id over all its attempts."""

    mode: Literal["offline", "online", "disabled"] = setting(
        "online sends metrics, offline keeps them on disk, disabled writes none", default="offline"
    )
    project: str = setting("wandb project", default="sisa-scale")
    entity: str | None = setting("wandb team or user; null takes the account's default", default=None)
