"""Which parts of which tensors a rank holds under each ZeRO stage, as views that a checkpoint reads and fills.

Stage 0 keeps everything on every rank; stages 1 and 2 keep contiguous fragments of flattened groups; stage 3 keeps
one padded partition of every parameter. The optimizer's states lie exactly as the fp32 weights do.
"""

from collections.abc import Iterator

import torch

from sisa_scale.checkpoint.manifest import WEIGHT
from sisa_scale.checkpoint.slices import CheckpointReader, Slice
from sisa_scale.compat.deepspeed import Fragment
from sisa_scale.config.optimizers.spec import AVERAGE
from sisa_scale.training.engine.engine import Engine
from sisa_scale.training.engine.fragments import fragments


def owned_slices(engine: Engine) -> Iterator[Slice]:
    """Yield what this rank must write, so that all ranks together write every element once."""
    rank, world_size = engine.workers.rank, engine.workers.world_size
    for piece in local_slices(engine):
        if engine.config.execution.zero_stage > 0:
            yield piece
            continue
        size = piece.values.numel()
        low, high = size * rank // world_size, size * (rank + 1) // world_size
        if low < high:
            yield Slice(piece.kind, piece.name, low, piece.values[low:high])


def local_slices(engine: Engine) -> Iterator[Slice]:
    """Yield views of all fp32 weights and states of the optimizer on this rank.

    An optimizer makes its states, all zero, in its first update, which does not come with the first step if that one
    is skipped; those of a run with an average of its weights are there from the start.
    """
    for name, (start, length, flat, offset) in _fragments(engine):
        if not length:
            continue
        held = engine.optimizer.state.get(flat, {})
        for kind in (WEIGHT, *engine.optimizer_states[name]):
            whole = flat.detach() if kind == WEIGHT else held.get(kind)
            values = flat.new_zeros(length) if whole is None else whole.view(-1).narrow(0, offset, length)
            yield Slice(kind, name, start, values)


def load_states(engine: Engine, reader: CheckpointReader, updates: int) -> None:
    """Give the optimizer its states of a checkpoint, and the number of updates it has taken.

    States that the checkpoint does not have, of another optimizer or without an average, begin as in a new run.
    """
    begin_states(engine, updates)
    for piece in local_slices(engine):
        if piece.kind in reader.manifest.optimizer_states[piece.name]:
            piece.values.copy_(reader.read(piece.kind, piece.name, piece.start, piece.values.numel()))


def begin_states(engine: Engine, updates: int = 0) -> None:
    """Give the optimizer the states before its first update: zero, but the average of the weights, which is they."""
    optimizer, spec = engine.optimizer, engine.config.optimizer.spec
    counts_on_device = any(group.get("fused") for group in optimizer.param_groups)
    for name, fragment in _fragments(engine):
        flat = fragment.flat
        if flat in optimizer.state:  # made for another parameter that lies in it
            continue
        states = {kind: torch.zeros_like(flat) for kind in engine.optimizer_states[name]}
        if AVERAGE in states:
            states[AVERAGE].copy_(flat.detach())
        for kind in spec.group(name, engine.shapes[name]).counts:
            states[kind] = torch.tensor(float(updates), device=flat.device if counts_on_device else "cpu")
        optimizer.state[flat] = states


def _fragments(engine: Engine) -> Iterator[tuple[str, Fragment]]:
    return fragments(engine.model, engine.engine, engine.config.execution.zero_stage, engine.workers.rank)
