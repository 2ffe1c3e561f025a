"""What to say when a GPU's memory runs out: what held it, by the planner's terms, beside what was planned."""

import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sisa_scale.compat.torch import write_memory_snapshot
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import TrainingError
from sisa_scale.planning.memory.estimate import MemoryPlan, plan_memory
from sisa_scale.runs.diagnostics import Diagnostics
from sisa_scale.training.run import Run

# Terms of the planner that are there from the first step on; of the others only the sum can be told apart.
STATES = ("weights", "master copies", "optimizer states", "gradients")
REST = "activations, working memory and buffers"


def raise_explained(run: Run, error: torch.OutOfMemoryError) -> NoReturn:
    """Raise what a person is told where the same steps would meet the error again; else the error, with that as a note.

    Memory that gave out later in an attempt may suffice when the workers start anew.
    """
    said = out_of_memory(run, error)
    if not run.directory.has_gained():
        raise said from error
    error.add_note(str(said))
    raise error


def out_of_memory(run: Run, error: torch.OutOfMemoryError) -> TrainingError:
    """Return what a person is told of an error, and leave a snapshot of the GPU's memory in the run directory.

    Called while the error is handled: what its frames hold is still there.
    """
    rank, config, snapshot, held = run.workers.rank, run.config, None, dict[str, int]()
    if run.workers.device.type == "cuda":
        path = Diagnostics(run.directory.path, run.directory.current_attempt()).out_of_memory_path(rank)
        with suppress(OSError, RuntimeError):  # what is said must not depend on it
            path.parent.mkdir(parents=True, exist_ok=True)
            write_memory_snapshot(path)
            snapshot = path
        engine = getattr(run, "engine", None)  # there is none yet where the first weights did not fit
        if engine is not None:
            allocated = torch.cuda.memory_allocated(run.workers.device)
            held = held_bytes(engine.model, engine.optimizer, run.workers.device, allocated)
    plan: MemoryPlan | None = None
    with suppress(Exception):  # an estimate of what has happened already
        plan = plan_memory(config)
    return memory_error(rank, run.heart.doing.step, str(error), config, held, plan, snapshot)


def held_bytes(model: nn.Module, optimizer: Optimizer, device: torch.device, allocated_bytes: int) -> dict[str, int]:
    """Return what a device holds, by term: weights, gradients, what the optimizer has, and the rest that is allocated.

    Under ZeRO 3 the partitions of the weights are with the rest.
    """
    seen = set[int]()

    def size(tensors: Iterable[Tensor | None]) -> int:
        total = 0
        for tensor in tensors:
            if tensor is None or tensor.device.type != device.type or tensor.data_ptr() == 0:
                continue
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                total += storage.nbytes()
        return total

    weights = [parameter.detach() for parameter in model.parameters()]
    masters = [weight for group in optimizer.param_groups for weight in group["params"]]
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    gradients = [parameter.grad for parameter in (*model.parameters(), *masters)]
    terms = dict(zip(STATES, map(size, (weights, masters, states, gradients)), strict=True))
    terms[REST] = max(0, allocated_bytes - sum(terms.values()))
    return {name: num_bytes for name, num_bytes in terms.items() if num_bytes}


def memory_error(
    rank: int,
    step: int,
    said: str,
    config: RunConfig,
    held: Mapping[str, int],
    plan: MemoryPlan | None,
    snapshot: Path | None,
) -> TrainingError:
    """Return the error: found what was held, allowed what was planned, and what to change, what helps most first."""
    found = f"no memory left on the GPU ({_first_sentence(said)})"
    if held:
        found += f"; tensors held {_listed(held)}"
    allowed = "the plan needs a trace that could not be made"
    if plan is not None:
        allowed = f"planned were {_gigabytes(plan.peak_bytes)} at the peak ({plan.phase}): {_listed(planned(plan))}"
        allowed += f", and {_gigabytes(sum(plan.outside.values()))} outside of tensors"
    remedy = f"Change one of these, then resume: {'; '.join(changes(config))}."
    remedy += " `sisa-scale plan RECIPE --gpu GPU` says which of them fit."
    if snapshot is not None:
        remedy += f" {snapshot} shows every block that was held (pytorch.org/memory_viz)."
    return TrainingError.at(f"rank {rank}, step {step}", found=found, allowed=allowed, remedy=remedy)


def planned(plan: MemoryPlan) -> dict[str, int]:
    """Return the terms of a plan as `held_bytes` can tell them apart."""
    rest = sum(size for name, size in plan.terms.items() if name not in STATES)
    return {name: plan.terms[name] for name in STATES if plan.terms.get(name)} | ({REST: rest} if rest else {})


def changes(config: RunConfig) -> list[str]:
    """Return the settings that need less memory than those of a run, keep what is trained and break no rule."""
    execution = config.execution
    stronger = "selective" if execution.activation_checkpointing == "none" else "full"
    size = execution.micro_batch_sequences
    smaller = max((n for n in range(1, size) if size % n == 0), default=1)
    candidates: dict[str, Any] = {
        "micro_batch_sequences": smaller,
        "activation_checkpointing": stronger,
        "zero_stage": min(3, execution.zero_stage + 1) if config.resources.workers > 1 else execution.zero_stage,
        "loss_chunk_tokens": max(1024, execution.loss_chunk_tokens // 2),
        "offload_optimizer": True,
    }
    found = []
    for name, value in candidates.items():
        changed = dataclasses.replace(execution, **{name: value})
        whole = dataclasses.replace(config, execution=changed)
        if changed != execution and not any(changed.violations()) and not any(whole.violations()):
            found.append(f"execution.{name}={str(value).lower()}")
    return found or ["more workers under execution.zero_stage=3, or a smaller model"]


def _listed(terms: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {_gigabytes(size)}" for name, size in sorted(terms.items(), key=lambda term: -term[1]))


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"


def _first_sentence(text: str) -> str:
    return text.strip().split(". ")[0].splitlines()[0].rstrip(".") if text.strip() else "torch gave no reason"
