"""One step of a run again, alone: its exact batch, forward and backward, on one device without DeepSpeed.

For a loss that jumped or was not finite. The weights are those of the nearest checkpoint at or before the step, so the
numbers are those of the run only where a checkpoint was written just before it; what the data does to the weights of
about that time is seen in any case.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sisa_scale.checkpoint.slices import CheckpointReader
from sisa_scale.checkpoint.store import CheckpointStore, find_checkpoint
from sisa_scale.checkpoint.verifying import verified
from sisa_scale.config.run import RunConfig
from sisa_scale.data.read.documents import IGNORED_TARGET
from sisa_scale.data.read.stream import Batch, TokenStream
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.kernels.sdpa import portable_backend
from sisa_scale.runs.cursor import read_cursor
from sisa_scale.runs.logs.metrics import find_step


@dataclass(frozen=True)
class Recorded:
    """What the run noted of the step; None where it has no line, or was not finite."""

    loss: float | None
    gradient_norm: float | None
    stream_digest: str | None


@dataclass(frozen=True)
class Origin:
    """Where the weights come from: steps that had been taken when they were saved, and where they lie."""

    step: int
    where: str


@dataclass(frozen=True)
class SequenceResult:
    """A sequence of the batch: mean loss of its targets in nats, and the norm of its part of the gradient."""

    index: int
    loss: float
    gradient_norm: float


@dataclass(frozen=True)
class Pass:
    """Forward and backward of the batch in one precision.

    loss in nats; gradient norms of all parameters and by group, before clipping. non_finite: modules whose output, and
    parameters whose gradient, was not finite, in the order in which they were met, with the first sequence that did it.
    """

    precision: str
    loss: float
    gradient_norm: float
    group_norms: dict[str, float]
    sequences: tuple[SequenceResult, ...]
    non_finite: tuple[str, ...]


def replay_batch(config: RunConfig, step: int, rank: int = 0, world_size: int = 1) -> tuple[int, Batch]:
    """Return the data step (from 0) and the batch of training step `step` (from 1), or of one rank's share of it."""
    data_step = read_cursor(config.directory).data_step(step - 1)
    return data_step, TokenStream(config.data).batch(data_step, rank, world_size)


def recorded(run_dir: Path, step: int) -> Recorded:
    """Return what the run noted of a step."""
    row = find_step(run_dir, step)
    if row is None:
        return Recorded(None, None, None)
    loss, norm = (value if math.isfinite(value) else None for value in (row.loss, row.gradient_norm))
    return Recorded(loss, norm, row.stream_digest)


def load_before(config: RunConfig, step: int, device: torch.device) -> tuple[Decoder, Origin]:
    """Return the model as the nearest checkpoint at or before the start of a step has it, or as the run began.

    Raises CheckpointError when that checkpoint is damaged.
    """
    backend = portable_backend(device.type, config.execution.precision, is_augmented=config.model.sisa is not None)
    model = Decoder(config.model, config.execution, backend)
    store = CheckpointStore(config.directory, config.checkpoint.directory)
    earlier = [saved for saved in store.steps() if saved < step]
    if not earlier and config.begin_from is None:
        model.initialise(config.seed)
        return model.to(device), Origin(0, "the seed")
    where, manifest = find_checkpoint(store.location(earlier[-1]) if earlier else str(config.begin_from))
    CheckpointReader(verified(where, manifest), manifest).load_weights(model.named_parameters())
    return model.to(device), Origin(earlier[-1] if earlier else 0, str(where))


def run_pass(model: Decoder, batch: Batch, precision: str, first_index: int = 0) -> Pass:
    """Take the batch forward and backward sequence by sequence; precision: "fp32" or "bf16" (autocast)."""
    device = next(model.parameters()).device
    num_targets = max(1, int((batch.targets_BL != IGNORED_TARGET).sum()))
    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    loss_sum, sequences, non_finite = 0.0, [], list[str]()
    for row in range(len(batch.tokens_BL)):
        index, one = first_index + row, slice(row, row + 1)
        targets_BL = batch.targets_BL[one].to(device)
        documents = {} if batch.document_BL is None else {"document_BL": batch.document_BL[one].to(device)}
        model.zero_grad(set_to_none=True)
        with (
            _watched(model, index, non_finite),
            torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
        ):
            loss = model(batch.tokens_BL[one].to(device), targets_BL, **documents)
        weight = int((targets_BL != IGNORED_TARGET).sum()) / num_targets
        (weight * loss).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        _note_gradients(gradients, index, non_finite)
        for name, gradient in gradients.items():
            total[name] += gradient
        loss_sum += weight * loss.item()
        sequences.append(SequenceResult(index, loss.item(), _norm(gradients.values())))
    groups: dict[str, list[Tensor]] = defaultdict(list)
    for name, gradient in total.items():
        groups[_group(name)].append(gradient)
    norms = {name: _norm(gradients) for name, gradients in groups.items()}
    return Pass(precision, loss_sum, _norm(total.values()), norms, tuple(sequences), tuple(non_finite))


@contextmanager
def _watched(model: nn.Module, index: int, found: list[str]) -> Iterator[None]:
    """Note the modules whose output is not finite, the innermost first."""

    def look(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and not output.detach().isfinite().all():
                _note(found, f"output of {name or 'the model'}", index)

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _note_gradients(gradients: dict[str, Tensor], index: int, found: list[str]) -> None:
    for name, gradient in gradients.items():
        if not gradient.isfinite().all():
            _note(found, f"gradient of {name}", index)


def _note(found: list[str], what: str, index: int) -> None:
    if not any(line.startswith(f"{what},") for line in found):
        found.append(f"{what}, first in sequence {index}")


def _norm(tensors: Any) -> float:
    squares = [tensor.double().square().sum() for tensor in tensors]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def _group(name: str) -> str:
    """Return the part of the model that a parameter belongs to: blocks.3.mixer, embedding, norm."""
    parts = name.split(".")
    return ".".join(parts[:3]) if parts[0] == "blocks" else parts[0]
