"""Several projections of one input as one matrix product.

Shapes: B batch, L length, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

ROWS_MULTIPLE = 64


class FusedLinear(nn.Module):
    """Projections of these widths, without biases, stacked in one weight.

    Matrix products of odd widths run on slow GPU kernels. So the product is as wide as the next multiple of
    ROWS_MULTIPLE, by rows of zeros made anew in every pass: parameters and checkpoints have none of them.
    """

    def __init__(self, d_model: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.num_padding_rows = padding_rows(sum(widths))
        self.weight = nn.Parameter(torch.empty(sum(widths), d_model))

    def forward(self, x_BLD: Tensor) -> tuple[Tensor, ...]:
        """Return the projections, (B, L, width) each."""
        weight = pad(self.weight, (0, 0, 0, self.num_padding_rows)) if self.num_padding_rows else self.weight
        return linear(x_BLD, weight).split([*self.widths, self.num_padding_rows], dim=-1)[:-1]

    def rows(self) -> tuple[Tensor, ...]:
        """Return the weight of every projection, as views."""
        return self.weight.split(self.widths)


def padding_rows(rows: int) -> int:
    """Return how many rows of zeros make a product of so many rows fast."""
    return -rows % ROWS_MULTIPLE
