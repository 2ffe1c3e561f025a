"""The one attention call: torch's scaled_dot_product_attention with a chosen kernel.

SISA's queries and keys are wider than its values, which not every kernel accepts; the `_padded` choices widen the
values with zeros and drop them from the result. `flash_4` is the kernel of a package in the place of torch's.

Shapes: B batch, L queries, M keys, H heads, K channels of queries and keys, J of values.
"""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

from sisa_scale.models.kernels.flash4 import attend_flash4

MASK_ALIGNMENT = 16  # elements: rows of a mask that kernels read in place begin at multiples of it
KERNELS = {
    "math": SDPBackend.MATH,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "flash_padded": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "cudnn_padded": SDPBackend.CUDNN_ATTENTION,
}


def portable_backend(device_type: str, precision: str, *, is_augmented: bool) -> str:
    """Return a kernel that works without measuring: flash where it takes the dtype, else the memory-efficient one.

    is_augmented: keys are wider than values, as in SISA.
    """
    if device_type == "cuda" and precision == "fp32":
        return "efficient"
    return "flash_padded" if is_augmented else "flash"


def attend(q_BLHK: Tensor, k_BLHK: Tensor, v_BLHJ: Tensor, *, scale: float, backend: str) -> Tensor:
    """Return softmax_causal(scale q k^T) v as (B, L, H, J), computed by the named kernel and no other.

    Raises RuntimeError (from torch) when the kernel does not support the shapes, dtype or device.
    """
    if backend == "flash_4":
        return attend_flash4(q_BLHK, k_BLHK, v_BLHJ, scale=scale)
    width = v_BLHJ.shape[-1]
    if backend.endswith("_padded"):
        v_BLHJ = pad(v_BLHJ, (0, k_BLHK.shape[-1] - width))
    with sdpa_kernel(KERNELS[backend]):
        out_BHLJ = scaled_dot_product_attention(
            q_BLHK.transpose(1, 2), k_BLHK.transpose(1, 2), v_BLHJ.transpose(1, 2), is_causal=True, scale=scale
        )
    return out_BHLJ.transpose(1, 2)[..., :width]


def attend_where(mask_BLM: Tensor | None, q_BLHK: Tensor, k_BMHK: Tensor, v_BMHJ: Tensor, *, scale: float) -> Tensor:
    """Return attention under a mask, by the kernels that take one: slower than `attend`.

    The mask says which keys are visible, or what is added to the logits, in the dtype of queries and keys. None: all
    keys are visible to all queries.
    """
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        out_BHLJ = scaled_dot_product_attention(
            q_BLHK.transpose(1, 2),
            k_BMHK.transpose(1, 2),
            v_BMHJ.transpose(1, 2),
            attn_mask=None if mask_BLM is None else mask_BLM[:, None],
            scale=scale,
        )
    return out_BHLJ.transpose(1, 2)


class BlockMasks:
    """The masks of attention that is computed a block of queries at a time, as parts of one.

    All keys before a block are visible to its queries; is_hidden_TT says which of its own places are not. torch's
    `is_causal` aligns a mask that is not square to the wrong corner, and its lower-right bias cannot be made inside
    torch.compile. Every block but the first takes one of these, so it leaves the fastest kernels. For all blocks there
    is one tensor of block x length, in the dtype of queries and keys: of a boolean mask, every call would make that.
    """

    def __init__(self, is_hidden_TT: Tensor, length: int, like: Tensor) -> None:
        block = is_hidden_TT.shape[0]
        is_hidden_TM = pad(is_hidden_TT, (length + -length % block - block, 0))
        self._mask_TM = torch.zeros((), dtype=like.dtype, device=like.device).masked_fill(is_hidden_TM, -torch.inf)
        self._is_aligned = block % MASK_ALIGNMENT == 0

    @classmethod
    def causal(cls, length: int, block: int, like: Tensor) -> "BlockMasks":
        """Return those of causal attention."""
        return cls(torch.ones(block, block, dtype=torch.bool, device=like.device).triu(1), length, like)

    def of(self, start: int, stop: int) -> Tensor:
        """Return what queries [start, stop) add to their logits of keys [0, stop)."""
        block, columns = self._mask_TM.shape
        first = columns - start - block
        mask_TM = self._mask_TM[: stop - start, first : first + stop]
        return (mask_TM if self._is_aligned else mask_TM.contiguous())[None]
