"""The one attention call: torch's scaled_dot_product_attention with a chosen kernel.

SISA's queries and keys are wider than its values, which not every kernel accepts; the `_padded` choices widen the
values with zeros and drop them from the result. `flash_4` is the kernel of a package in the place of torch's.

Shapes: B batch, L queries, M keys, H heads, K channels of queries and keys, J of values.
"""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

from sisa_scale.models.flash4 import attend_flash4

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


def attend_last(q_BLHK: Tensor, k_BMHK: Tensor, v_BMHJ: Tensor, *, scale: float, backend: str) -> Tensor:
    """Return what `attend` would for the last L of M positions.

    `is_causal` aligns a non-square mask to the wrong corner, and torch's lower-right bias cannot be made inside
    torch.compile: unless L = M or L = 1, this makes an L x M mask and leaves the named kernel for one that takes it.
    """
    length, keys = q_BLHK.shape[1], k_BMHK.shape[1]
    if length == 1:
        return attend_where(None, q_BLHK, k_BMHK, v_BMHJ, scale=scale)
    if length == keys:
        return attend(q_BLHK, k_BMHK, v_BMHJ, scale=scale, backend=backend)
    is_visible_LM = torch.ones(length, keys, dtype=torch.bool, device=q_BLHK.device).tril(keys - length)
    return attend_where(is_visible_LM[None], q_BLHK, k_BMHK, v_BMHJ, scale=scale)


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
