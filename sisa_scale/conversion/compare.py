"""How the tensors of two checkpoints differ, and what those of one are like."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from sisa_scale.conversion.weights import Weights


@dataclass(frozen=True, slots=True)
class Difference:
    """One tensor that differs. note: says why there are no numbers.

    num_different: elements; largest: absolute difference; relative: norm of the difference over that of the first.
    """

    name: str
    num_different: int | None = None
    num_elements: int | None = None
    largest: float | None = None
    relative: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """One tensor: shape, root mean square, mean, largest absolute value."""

    name: str
    shape: tuple[int, ...]
    rms: float
    mean: float
    largest: float


def differences(first: Weights, second: Weights) -> Iterator[Difference]:
    """Yield every tensor that differs in bits, in the order of the first."""
    for name, shape in first.shapes.items():
        other = second.shapes.get(name)
        if other != shape:
            note = "only in the first" if other is None else f"shapes {list(shape)} and {list(other)}"
            yield Difference(name, note=note)
            continue
        found = _difference(name, first.read(name), second.read(name))
        if found.num_different:
            yield found
    for name in second.shapes.keys() - first.shapes.keys():
        yield Difference(name, note="only in the second")


def summaries(weights: Weights) -> Iterator[TensorSummary]:
    """Yield every tensor's summary."""
    for name, shape in weights.shapes.items():
        values = weights.read(name).double()
        yield TensorSummary(
            name, shape, values.square().mean().sqrt().item(), values.mean().item(), values.abs().max().item()
        )


def _difference(name: str, first: Tensor, second: Tensor) -> Difference:
    apart = (first.double() - second.double()).abs()
    scale = first.double().norm().item()
    relative = apart.norm().item() / scale if scale else None
    return Difference(name, int((first != second).sum()), first.numel(), apart.max().item(), relative)
