"""How large the activations and the attention logits of every block are: what grows before a loss does.

Shapes: B batch, L queries, M keys, H heads, K channels.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from sisa_scale.models.decoder import Decoder
from sisa_scale.models.monitors import CHUNK_TOKENS
from sisa_scale.models.precision import upcast


class BlockReading(NamedTuple):
    """activation_rms: root mean square of what a block hands on. largest_logit: the largest absolute logit of all pairs
    of a query and a key that it may see; NaN without attention, and where a kernel that is not torch's computes it.
    """

    activation_rms: float
    largest_logit: float


@torch.no_grad()
def read_blocks(model: Decoder, tokens_BL: Tensor, document_BL: Tensor | None = None) -> list[BlockReading]:
    """Return the readings of every block on these tokens, from one uncompiled forward pass."""
    logits, squares = _Logits(), list[float]()

    def enter(_block: nn.Module, _inputs: Any) -> None:
        logits.largest.append(math.nan)

    def leave(_block: nn.Module, _inputs: Any, x_BLD: Tensor) -> None:
        squares.append(upcast(x_BLD).square().mean().sqrt().item())

    handles = [block.register_forward_pre_hook(enter) for block in model.blocks]
    handles += [block.register_forward_hook(leave) for block in model.blocks]
    try:
        with logits:
            model.hidden(tokens_BL, document_BL)
    finally:
        for handle in handles:
            handle.remove()
    return [BlockReading(*reading) for reading in zip(squares, logits.largest, strict=True)]


class _Logits(TorchFunctionMode):
    """Looks at the queries and keys of every attention call of torch's; `largest` has a number for each block."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: list[float] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and self.largest:
            is_causal, mask = kwargs.get("is_causal", False), kwargs.get("attn_mask")
            found = largest_logit(args[0], args[1], kwargs.get("scale"), mask, is_causal=is_causal)
            self.largest[-1] = max(found, self.largest[-1]) if self.largest[-1] == self.largest[-1] else found
        return func(*args, **kwargs)


def largest_logit(
    q_BHLK: Tensor, k_BHMK: Tensor, scale: float | None, mask: Tensor | None, *, is_causal: bool
) -> float:
    """Return the largest absolute logit of the pairs that are visible, some queries at a time."""
    scale = 1 / math.sqrt(q_BHLK.shape[-1]) if scale is None else scale
    length, largest = q_BHLK.shape[-2], 0.0
    k_BHMK = upcast(k_BHMK).repeat_interleave(q_BHLK.shape[1] // k_BHMK.shape[1], dim=1)
    for start in range(0, length, CHUNK_TOKENS):
        now = slice(start, min(start + CHUNK_TOKENS, length))
        logits_BHLM = scale * upcast(q_BHLK[:, :, now]) @ k_BHMK.transpose(-1, -2)
        if is_causal:
            is_hidden = torch.ones(length, k_BHMK.shape[-2], dtype=torch.bool, device=k_BHMK.device).triu(1)
            logits_BHLM = logits_BHLM.masked_fill(is_hidden[now], 0.0)
        if mask is not None:
            part = mask[..., now, :] if mask.shape[-2] == length else mask
            visible = part if part.dtype == torch.bool else part > -torch.inf
            added = 0.0 if part.dtype == torch.bool else part.where(visible, 0.0)
            logits_BHLM = (logits_BHLM + added).where(visible, 0.0)
        largest = max(largest, logits_BHLM.abs().max().item())
    return largest
