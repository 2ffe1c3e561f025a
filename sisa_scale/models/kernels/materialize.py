"""Results that compiled kernels are to read, not to compute.

torch.compile computes elementwise steps again in every kernel that reads them, for every element there. That is cheap
unless few values are read by many: a decay by each pair of tokens of a chunk, a cosine by each channel of two heads.
Operators that the compiler cannot look into are computed once, stored, and kept for the backward pass.
"""

import re
from typing import Any

import torch
from torch import Tensor

from sisa_scale.compat.torch import lower_as_stored_copy

# Operators belong to this module by name: its copy in an exported model, loaded in the same process, has its own.
_NAMESPACE = re.sub(r"\W", "_", __name__)


def materialize(x: Tensor) -> Tensor:
    """Return x, stored for the backward pass; where there is none, x as it is."""
    return _materialize(x) if torch.is_grad_enabled() else x


def store_in_kernels() -> None:
    """Have kernels that torch.compile makes from now on write what they store where it stays, without a copy."""
    lower_as_stored_copy(_materialize)


def materialize_cos_sin(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of angles in radians, stored for the backward pass."""
    return _cos_sin(angles) if torch.is_grad_enabled() else (angles.cos(), angles.sin())


@torch.library.custom_op(f"{_NAMESPACE}::materialize", mutates_args=())
def _materialize(x: Tensor) -> Tensor:
    return x.clone()


@_materialize.register_fake
def _materialize_shape(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _materialize_gradient(ctx: Any, gradient: Tensor) -> Tensor:
    return gradient


_materialize.register_autograd(_materialize_gradient)


@torch.library.custom_op(f"{_NAMESPACE}::materialize_cos_sin", mutates_args=())
def _cos_sin(angles: Tensor) -> tuple[Tensor, Tensor]:
    return angles.cos(), angles.sin()


@_cos_sin.register_fake
def _cos_sin_shapes(angles: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(angles), torch.empty_like(angles)


def _keep_cos_sin(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output)


def _cos_sin_gradient(ctx: Any, cos_gradient: Tensor, sin_gradient: Tensor) -> Tensor:
    cos, sin = ctx.saved_tensors
    return sin_gradient * cos - cos_gradient * sin


_cos_sin.register_autograd(_cos_sin_gradient, setup_context=_keep_cos_sin)
