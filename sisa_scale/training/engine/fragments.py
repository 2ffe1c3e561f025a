"""Which elements of which weights this worker has, and the matrices that an optimizer needs to see whole."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sisa_scale.compat.deepspeed import Fragment, held_fragment
from sisa_scale.models.row_parts import RowPart, row_parts
from sisa_scale.training.optimizers.matrix_exchange import Held, Matrix


def fragments(model: nn.Module, deepspeed_engine: Any, stage: int, rank: int) -> Iterator[tuple[str, Fragment]]:
    """Yield the parameters that lie in a tensor of this worker's optimizer, if only with padding, and where."""
    for name, parameter in model.named_parameters():
        fragment = held_fragment(deepspeed_engine, parameter, stage, rank)
        if fragment is not None:
            yield name, fragment


def matrices_of(model: nn.Module, shapes: Mapping[str, Sequence[int]], names: Sequence[str]) -> list[Matrix]:
    """Return the named weights and their parts, those without rows left out."""
    fused, matrices = row_parts(model), []
    for name in names:
        rows, columns = shapes[name]
        whole, parts = torch.empty(rows, columns, device="meta"), fused.get(name, {"": RowPart(0, rows)})
        matrices.append(Matrix(name, rows, columns, tuple(part for part in parts.values() if part.of(whole).numel())))
    return matrices


def held_matrices(matrices: Sequence[Matrix], found: Iterator[tuple[str, Fragment]], stage: int) -> list[Held]:
    """Return what this worker has of the matrices. Under stage 3 the optimizer is called for one tensor at a time."""
    numbers = {matrix.name: number for number, matrix in enumerate(matrices)}
    calls: dict[torch.Tensor, int] = {}
    held = []
    for name, fragment in found:
        if name in numbers:
            call = calls.setdefault(fragment.flat, len(calls)) if stage == 3 else 0
            held.append(Held(numbers[name], fragment.start, fragment.length, call, fragment.flat, fragment.offset))
    return held
