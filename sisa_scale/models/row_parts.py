"""Which rows of a fused projection are whose.

A module that stacks several maps in one weight names them in a method `row_parts`; a weight that no module speaks of is
one map. Monitors read gradients by these parts, and Muon orthogonalises each by itself.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn


class RowPart(NamedTuple):
    """Rows of a weight: of `start` to `stop`, cut into `heads` equal runs, those from `low` to `high` of every run."""

    start: int
    stop: int
    heads: int = 1
    low: int = 0
    high: int | None = None

    def of(self, weight: Tensor) -> Tensor:
        """Return the rows as a view (heads, rows of a head, columns)."""
        return weight[self.start : self.stop].unflatten(0, (self.heads, -1))[:, self.low : self.high]


@runtime_checkable
class HasRowParts(Protocol):
    """A module with fused projections."""

    def row_parts(self) -> dict[str, dict[str, RowPart]]:
        """Return the parts by name, which together are all rows, of every fused weight by its name in the module."""
        ...


def row_parts(model: nn.Module) -> dict[str, dict[str, RowPart]]:
    """Return the parts of every fused weight of a model, by the weight's name in it."""
    return {
        f"{path}.{name}" if path else name: parts
        for path, module in model.named_modules()
        if isinstance(module, HasRowParts)
        for name, parts in module.row_parts().items()
    }


def stacked(widths: Mapping[str, int], start: int = 0) -> dict[str, RowPart]:
    """Return parts of so many rows each, one below the other from `start` on."""
    parts = {}
    for name, width in widths.items():
        parts[name] = RowPart(start, start + width)
        start += width
    return parts


def augmented_parts(widths: Sequence[int], heads: int, kv_heads: int, head_width: int) -> dict[str, RowPart]:
    """Return the parts of SISA's rows [q and C | k and B | v | decay | phase | gate]; heads are [content | importance].

    Without widths for a gate, or with a width of 0, there is none.
    """
    rows = stacked(dict(zip(("q", "k", "v", "decay", "phase", "gate"), widths, strict=False)))
    if "gate" in rows and rows["gate"].start == rows["gate"].stop:
        del rows["gate"]
    parts = {}
    for content, importance, count in (("q", "C", heads), ("k", "B", kv_heads)):
        start, stop, *_ = rows.pop(content)
        parts[content] = RowPart(start, stop, count, 0, head_width)
        parts[importance] = RowPart(start, stop, count, head_width)
    return parts | rows
