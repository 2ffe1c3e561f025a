"""Dense products of blocks in 8-bit floats, with one scale for a whole tensor, found anew in every pass.

A tensor is divided by its scale, so that its largest magnitude is the largest number of the format, and rounded: inputs
and weights to float8_e4m3fn (3 bits of mantissa), gradients to float8_e5m2 (2 bits, a wider range; Micikevicius et al.
2022, 2209.05433). The GPU multiplies these, sums in float32 and multiplies by both scales; results are bf16. Parameters
stay what they are, and so do checkpoints.

Where no gradient is taken, in evaluations, products are those without this module: a score depends on no scale that
later tokens and other sequences have a part in.

Shapes: M tokens, D input channels, E output channels.
"""

from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from sisa_scale.config.execution import FLOAT8_MULTIPLE
from sisa_scale.models.kernels.fused_linear import FusedLinear, padded_linear, padded_weight

_VALUES, _GRADIENTS = torch.float8_e4m3fn, torch.float8_e5m2
_LEAST_MAGNITUDE = 1e-12  # stands for the largest of a tensor that has none


@dataclass(frozen=True, slots=True)
class Float8Modules:
    """The dense layers of blocks by name: those that compute in float8, and why the others do not."""

    taken: tuple[str, ...]
    left: dict[str, str]


def use_float8(blocks: nn.Module) -> Float8Modules:
    """Have every dense layer in `blocks` multiply in float8 that fits; the others stay as they are."""
    taken: list[str] = []
    left: dict[str, str] = {}
    for name, module in blocks.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        obstacle = _obstacle(module)
        if obstacle is not None:
            left[name] = obstacle
            continue
        taken.append(name)
        if isinstance(module, FusedLinear):
            module.product = float8_linear
        else:
            vars(module)["forward"] = MethodType(_forward, module)
    return Float8Modules(tuple(taken), left)


def float8_linear(x: Tensor, weight_ED: Tensor, num_padding_rows: int = 0) -> Tensor:
    """Return x W^T for x (..., D) as bf16, with zeros for the padding rows, which W is given as `FusedLinear` says.

    On a GPU the tokens of x must be a multiple of FLOAT8_MULTIPLE: the backward pass raises RuntimeError otherwise.
    """
    if not torch.is_grad_enabled():
        return padded_linear(x, weight_ED, num_padding_rows)
    return _Float8Linear.apply(x.to(torch.bfloat16), weight_ED, num_padding_rows)  # type: ignore[no-untyped-call]


class _Float8Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_ED: Tensor, num_padding_rows: int) -> Tensor:
        x_MD, x_scale = _rounded(x.reshape(-1, x.shape[-1]), _VALUES)
        w_ED, w_scale = _rounded(padded_weight(weight_ED, num_padding_rows), _VALUES)
        # Not the rounded weight: the parameter is there anyway, and under ZeRO 3 it goes and comes back.
        ctx.save_for_backward(x_MD, x_scale, weight_ED)
        ctx.shape, ctx.num_padding_rows = x.shape, num_padding_rows
        return _product(x_MD, w_ED.t(), x_scale, w_scale, is_fast=True).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x_MD, x_scale, weight_ED = ctx.saved_tensors
        w_ED, w_scale = _rounded(padded_weight(weight_ED, ctx.num_padding_rows), _VALUES)
        g_ME, g_scale = _rounded(gradient.reshape(-1, gradient.shape[-1]), _GRADIENTS)
        x_gradient = _product(g_ME, _by_columns(w_ED), g_scale, w_scale, is_fast=False)
        w_gradient = _product(g_ME.t().contiguous(), _by_columns(x_MD), g_scale, x_scale, is_fast=False)
        return x_gradient.view(ctx.shape), w_gradient[: len(weight_ED)].to(weight_ED.dtype), None


def _forward(self: nn.Linear, x: Tensor) -> Tensor:
    return float8_linear(x, self.weight)


def _rounded(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return x / scale in an 8-bit format, and the scale, float32. What is not finite makes NaN."""
    largest = torch.finfo(dtype).max
    scale = x.abs().amax().float().clamp(min=_LEAST_MAGNITUDE) / largest
    return (x.float() / scale).clamp(-largest, largest).to(dtype), scale


def _product(a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, *, is_fast: bool) -> Tensor:
    """Return (a_scale a) (b_scale b); a lies by rows, b by columns. is_fast: sums may be rounded more on the way."""
    with torch.autocast(a.device.type, enabled=False):  # a CPU multiplies what the numbers stand for, in float32
        return torch._scaled_mm(a, b, a_scale, b_scale, out_dtype=torch.bfloat16, use_fast_accum=is_fast)


def _by_columns(x: Tensor) -> Tensor:
    return x.t().contiguous().t()


def _obstacle(layer: nn.Linear) -> str | None:
    """Return why a layer cannot multiply in float8."""
    if "bias" in dict(layer.named_parameters()):
        return "has a bias"
    rows, columns = layer.weight.shape
    if isinstance(layer, FusedLinear):
        rows += layer.num_padding_rows
    is_fit = rows % FLOAT8_MULTIPLE == columns % FLOAT8_MULTIPLE == 0
    return None if is_fit else f"{rows} x {columns} is not in multiples of {FLOAT8_MULTIPLE}"
