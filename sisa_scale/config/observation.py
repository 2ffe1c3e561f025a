"""Sections `checkpoint`, `evaluation` and `wandb`: what a run keeps and shows of itself."""

from dataclasses import dataclass
from typing import Literal

from sisa_scale.config.fields import setting
from sisa_scale.config.tasks import task_names


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """When checkpoints are written, where, and which are kept; a run that is stopped always writes one."""

    every_steps: int = setting("steps between checkpoints; 0 writes only the last", default=1000, minimum=0)
    at_end: bool = setting(
        "write one after the last step; false is for measurements, whose weights nobody wants", default=True
    )
    asynchronous: bool = setting("train on while a checkpoint is written, from a copy in host memory", default=True)
    keep_last: int = setting("newest checkpoints kept; 0 keeps all", default=3, minimum=0)
    keep_every_steps: int = setting(
        "checkpoints of steps that this divides are kept, too; 0 keeps no such", default=0, minimum=0
    )
    at_steps: tuple[int, ...] = setting(
        "steps after which a checkpoint is written and kept whatever else is removed, as branches need them",
        default=(),
        minimum=1,
    )
    keep_best: int = setting(
        "checkpoints with the lowest held-out loss, measured at their step, kept, too", default=0, minimum=0
    )
    retry_seconds: float = setting(
        "how long the last checkpoint of a run is tried again, every 5 seconds, where the disk refuses it",
        default=600.0,
        minimum=0,
    )
    directory: str | None = setting(
        "directory or URL (s3://, gs://) that holds the checkpoints of this run alone; null is the run directory",
        default=None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """What is measured in training and at the end."""

    every_steps: int = setting("steps between evaluations; 0 evaluates only at the end", default=1000, minimum=0)
    monitor_every_steps: int = setting(
        "steps between readings of SISA's layers (half-life, lambda, largest logits, norms of B and C, the change of "
        "the phase in the step, whose the gradient is); 0 turns them off",
        default=100,
        minimum=0,
    )
    tasks: tuple[str, ...] = setting(
        "tasks to score",
        default=("loss", "lambada", "needle"),
        choices=task_names,
    )
    context_tokens: int | None = setting(
        "length of an evaluation pass, so the longest context that is scored; null is data.sequence_tokens",
        default=None,
        minimum=2,
    )
    batch_sequences: int = setting("sequences of one evaluation pass on one worker", default=8, minimum=1)
    num_heldout_sequences: int = setting("held-out sequences of the loss task", default=128, minimum=1)
    lambada_path: str | None = setting(
        "LAMBADA as JSON lines, or openai to fetch it once; null scores a cloze set made from held-out text",
        default=None,
    )
    num_cloze_items: int = setting("most passages of the lambada task", default=5153, minimum=1)
    questions_directory: str | None = setting(
        "directory with hellaswag.jsonl, arc_easy.jsonl, piqa.jsonl, winogrande.jsonl; null skips these tasks",
        default=None,
    )
    num_questions: int = setting("most questions of each of these tasks", default=20000, minimum=1)
    num_needle_items: int = setting("needles per length", default=100, minimum=1)
    needle_lengths: tuple[int, ...] = setting(
        "context lengths of the needle task in tokens", default=(512, 1024, 2048), minimum=32
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class WandbConfig:
    """Weights & Biases; the run keeps one id over all its attempts."""

    mode: Literal["offline", "online", "disabled"] = setting("where wandb sends the metrics", default="offline")
    project: str = setting("wandb project", default="sisa-scale")
    entity: str | None = setting("wandb team or user; null takes the account's default", default=None)
