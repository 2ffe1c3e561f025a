"""Several projections of one input as one matrix product.

Shapes: B batch, L length, D width.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn.functional import linear, pad

ROWS_MULTIPLE = 64


class FusedLinear(nn.Linear):
    """Projections of these widths, without biases, stacked in one weight; split the result by the widths.

    Matrix products of odd widths run on slow GPU kernels. So the product is as wide as the next multiple of
    ROWS_MULTIPLE, by rows of zeros made anew in every pass: parameters and checkpoints have none of them. To all who
    look for the linear layers of a model (adapters, quantization) it is one.
    """

    def __init__(self, d_model: int, widths: Sequence[int]) -> None:
        super().__init__(d_model, sum(widths), bias=False)
        self.widths = tuple(widths)
        self.num_padding_rows = padding_rows(sum(widths))
        self.product: Callable[[Tensor, Tensor, int], Tensor] = padded_linear

    def reset_parameters(self) -> None:
        """Leave the weight undefined: whose it is draws it."""

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Return the projections side by side, (B, L, sum of the widths)."""
        product = self.product(x_BLD, self.weight, self.num_padding_rows)
        return product[..., : self.out_features] if self.num_padding_rows else product

    def rows(self) -> tuple[Tensor, ...]:
        """Return the weight of every projection, as views."""
        return self.weight.split(self.widths)


def padding_rows(rows: int) -> int:
    """Return how many rows of zeros make a product of so many rows fast."""
    return -rows % ROWS_MULTIPLE


def padded_linear(x: Tensor, weight: Tensor, num_padding_rows: int) -> Tensor:
    """Return x weight^T, with so many zeros after it."""
    return linear(x, padded_weight(weight, num_padding_rows))


def padded_weight(weight: Tensor, num_padding_rows: int) -> Tensor:
    """Return the weight with so many rows of zeros below it."""
    return pad(weight, (0, 0, 0, num_padding_rows)) if num_padding_rows else weight
