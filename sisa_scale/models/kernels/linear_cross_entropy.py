"""The loss of a large vocabulary without holding its logits, and without computing them twice.

A loss is one number, so the gradient of its logits is known, up to one factor, as soon as the loss is. It is computed
in the forward pass, a chunk of tokens at a time, and made into the gradients of hidden states and weight at once: what
is kept for the backward pass has the size of these two. (The idea of Liger's fused linear cross-entropy, 2410.10989,
in stock operations.)

The z-loss (PaLM, 2204.02311, section 5) is w (log Z)^2, with Z the denominator of a token's softmax: its gradient by
the logits is 2 w log Z softmax, so it costs a factor on what is there. It acts on gradients alone: the value that is
returned is the cross-entropy, comparable with that of any other model.

Shapes: N tokens, D width, V rows of the weight.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, nll_loss, pad

from sisa_scale.models.precision import upcast

IGNORED_TARGET = -100


def linear_cross_entropy(
    x_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    vocab_size: int,
    chunk_tokens: int,
    z_loss_weight: float = 0.0,
) -> Tensor:
    """Return the sum over tokens of -log softmax(x W^T)[target] in nats, in float32 or wider.

    The gradient is that of this sum plus z_loss_weight times the sum of (log Z)^2.

    Rows of W from vocab_size on have no logit; targets of IGNORED_TARGET do not count. The products are in the autocast
    dtype if there is one, the softmax and the sum over chunks in float32 or wider.
    """
    device = x_ND.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_ND.dtype
    # Inside the function gradients are off, and what its inputs need says nothing of whether they were on outside.
    is_differentiated = torch.is_grad_enabled() and (x_ND.requires_grad or weight_VD.requires_grad)
    with torch.autocast(device, enabled=False):
        return _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            x_ND.to(dtype), weight_VD, targets_N, vocab_size, chunk_tokens, z_loss_weight, is_differentiated
        )


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        vocab_size: int,
        chunk_tokens: int,
        z_loss_weight: float,
        is_differentiated: bool,
    ) -> Tensor:
        weight = weight_VD.to(x_ND.dtype)
        loss = upcast(x_ND.new_zeros(()))
        if not is_differentiated:
            for now in _chunks(x_ND.shape[0], chunk_tokens):
                loss += _loss(x_ND[now] @ weight.T, targets_N[now], vocab_size)
            return loss
        gradient_ND, gradient_VD = torch.empty_like(x_ND), torch.zeros_like(weight_VD)
        for now in _chunks(x_ND.shape[0], chunk_tokens):
            nats, gradient_NV = _softmax_gradient(x_ND[now] @ weight.T, targets_N[now], vocab_size, z_loss_weight)
            loss += nats
            torch.mm(gradient_NV, weight, out=gradient_ND[now])
            gradient_VD += _wide_product(gradient_NV.T, x_ND[now], gradient_VD.dtype)
            del gradient_NV  # before the next chunk has its own
        ctx.save_for_backward(gradient_ND, gradient_VD)
        return loss

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, Tensor, None, None, None, None, None]:
        gradient_ND, gradient_VD = ctx.saved_tensors
        return (gradient_ND * factor).to(gradient_ND.dtype), gradient_VD * factor, None, None, None, None, None


def _chunks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _wide_product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a @ b in `dtype` without rounding in between where the device can: sums over many tokens follow."""
    return torch.mm(a, b, out_dtype=dtype) if a.is_cuda and a.dtype != dtype else (a @ b).to(dtype)


def _loss(logits_NV: Tensor, targets_N: Tensor, vocab_size: int) -> Tensor:
    return torch.nn.functional.cross_entropy(
        upcast(logits_NV[:, :vocab_size]), targets_N, reduction="sum", ignore_index=IGNORED_TARGET
    )


def _softmax_gradient(
    logits_NV: Tensor, targets_N: Tensor, vocab_size: int, z_loss_weight: float
) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy, and the gradient of it and the z-loss by the logits, in their dtype."""
    run = _compiled() if logits_NV.is_cuda else _in_few_passes
    nats, gradient_NV = run(logits_NV, targets_N, vocab_size, z_loss_weight)
    return nats, gradient_NV


def _in_few_passes(
    logits_NV: Tensor, targets_N: Tensor, vocab_size: int, z_loss_weight: float
) -> tuple[Tensor, Tensor]:
    """For devices where every operation passes over the logits once more."""
    log_NV = log_softmax(upcast(logits_NV[:, :vocab_size]), dim=-1)
    nats = nll_loss(log_NV, targets_N, reduction="sum", ignore_index=IGNORED_TARGET)
    total_N1 = upcast(logits_NV[:, :1]) - log_NV[:, :1]
    gradient_NV, target_N1 = log_NV.exp_(), targets_N[:, None].clamp(min=0)
    if z_loss_weight:
        gradient_NV *= 1 + 2 * z_loss_weight * total_N1
    gradient_NV.scatter_add_(1, target_N1, -torch.ones_like(target_N1, dtype=gradient_NV.dtype))
    gradient_NV[targets_N == IGNORED_TARGET] = 0.0
    gradient_NV = gradient_NV.to(logits_NV.dtype)
    num_unused = logits_NV.shape[1] - vocab_size
    return nats, pad(gradient_NV, (0, num_unused)) if num_unused else gradient_NV


def _fusible(logits_NV: Tensor, targets_N: Tensor, vocab_size: int, z_loss_weight: float) -> tuple[Tensor, Tensor]:
    row_V = torch.arange(logits_NV.shape[1], device=logits_NV.device)
    wide = upcast(logits_NV).masked_fill(row_V >= vocab_size, -torch.inf)
    top_N1 = wide.amax(-1, keepdim=True)
    total_N1 = top_N1 + (wide - top_N1).exp().sum(-1, keepdim=True).log()
    is_counted_N1 = (targets_N != IGNORED_TARGET)[:, None]
    target_N1 = targets_N[:, None].clamp(min=0)
    nats = ((total_N1 - wide.gather(1, target_N1)) * is_counted_N1).sum()
    softmax_NV = (wide - total_N1).exp()
    if z_loss_weight:
        softmax_NV = softmax_NV * (1 + 2 * z_loss_weight * total_N1)
    gradient_NV = (softmax_NV - (row_V == target_N1).to(wide.dtype)) * is_counted_N1
    return nats, gradient_NV.to(logits_NV.dtype)


@cache
def _compiled() -> Callable[[Tensor, Tensor, int, float], tuple[Tensor, Tensor]]:
    """Return the same in one pass over the logits."""
    return torch.compile(_fusible, dynamic=False)
