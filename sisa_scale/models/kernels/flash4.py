"""FlashAttention-4, a library's attention kernel for Hopper GPUs and later (package flash-attn-4; no need of ours).

It takes keys that are wider than values at their own widths. Torch's kernels compute both at the wider one, or at the
next power of two. Torch can put it under its own SDPA call, but only at equal widths; so it is called by itself here.

Widths are filled with zeros up to a multiple of 32: at 80 channels, version 4.0.0b36 gives wrong gradients of queries.

Shapes: B batch, L length, H heads, K channels of queries and keys, J of values.
"""

import re
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

WIDTH_MULTIPLE = 32
CAPABILITIES = (9, 10)  # major compute capabilities: Hopper, Blackwell
# Operators belong to this module by name: its copy in an exported model, loaded in the same process, has its own.
_NAMESPACE = re.sub(r"\W", "_", __name__)


def is_available(device: torch.device) -> bool:
    """Return whether the package is installed and has kernels for the device. Does not import it: that is slow."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return False
    if torch.cuda.get_device_capability(device)[0] not in CAPABILITIES:
        return False
    return find_spec("flash_attn") is not None and find_spec("flash_attn.cute") is not None


def attend_flash4(q_BLHK: Tensor, k_BLHK: Tensor, v_BLHJ: Tensor, *, scale: float) -> Tensor:
    """Return softmax_causal(scale q k^T) v as (B, L, H, J), bf16 or fp16, on a GPU.

    Raises RuntimeError when the package is missing or has no kernel for the shapes, dtype or device.
    """
    width = v_BLHJ.shape[-1]
    out_BLHJ, _ = flash4(*(filled(x) for x in (q_BLHK, k_BLHK, v_BLHJ)), scale)
    return out_BLHJ[..., :width]


@torch.library.custom_op(f"{_NAMESPACE}::attention", mutates_args=())
def flash4(q_BLHK: Tensor, k_BLHK: Tensor, v_BLHJ: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return causal attention and the logarithm of every softmax's sum, (B, H, L) in float32."""
    out_BLHJ, logsumexp_BHL, *_ = _call("_flash_attn_fwd", q_BLHK, k_BLHK, v_BLHJ, scale, return_lse=True)
    return out_BLHJ, logsumexp_BHL


@torch.library.custom_op(f"{_NAMESPACE}::attention_backward", mutates_args=())
def flash4_backward(
    gradient_BLHJ: Tensor,
    q_BLHK: Tensor,
    k_BLHK: Tensor,
    v_BLHJ: Tensor,
    out_BLHJ: Tensor,
    logsumexp_BHL: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values."""
    found = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q_BLHK, k_BLHK, v_BLHJ)]
    inputs = (q_BLHK, k_BLHK, v_BLHJ, out_BLHJ, gradient_BLHJ.contiguous(), logsumexp_BHL)
    _call("_flash_attn_bwd", *inputs, scale, **dict(zip(("dq", "dk", "dv"), found, strict=True)))
    return found[0], found[1], found[2]


@flash4.register_fake
def _shapes(q_BLHK: Tensor, k_BLHK: Tensor, v_BLHJ: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    batch, length, heads, _ = q_BLHK.shape
    out_BLHJ = v_BLHJ.new_empty(batch, length, heads, v_BLHJ.shape[-1])
    return out_BLHJ, v_BLHJ.new_empty(batch, heads, length, dtype=torch.float32)


@flash4_backward.register_fake
def _gradient_shapes(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *qkv, ctx.scale = inputs
    ctx.save_for_backward(*qkv, *output)


def _gradients(ctx: Any, gradient_BLHJ: Tensor, _logsumexp: Tensor) -> tuple[Tensor | None, ...]:
    return (*flash4_backward(gradient_BLHJ, *ctx.saved_tensors, ctx.scale), None)


flash4.register_autograd(_gradients, setup_context=_keep)


def _call(function: str, *inputs: Any, **settings: Any) -> Any:
    """Call a function of the package. Torch's own SDPA calls the same two."""
    try:
        from flash_attn.cute import interface
    except ImportError as error:
        raise RuntimeError(f"the package flash-attn-4 cannot be imported: {error}") from error
    *tensors, scale = inputs
    try:
        return getattr(interface, function)(*tensors, softmax_scale=scale, causal=True, **settings)
    except Exception as error:  # assertions, and errors of its compiler
        raise RuntimeError(f"flash-attn-4 has no kernel for this: {error}") from error


def kernel_width(width: int) -> int:
    """Return the width that heads of this width are filled up to, with zeros."""
    return width + -width % WIDTH_MULTIPLE


def filled(x_BLHK: Tensor) -> Tensor:
    """Return heads with zeros up to a width that the kernel takes."""
    missing = kernel_width(x_BLHK.shape[-1]) - x_BLHK.shape[-1]
    return pad(x_BLHK, (0, missing)) if missing else x_BLHK
