"""The attention operators of a GPU, on tensors without data."""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


class GpuAttention(TorchFunctionMode):
    """Puts a GPU's SDPA operators in the place of the CPU's: what they keep for the backward pass differs."""

    def __init__(self, kernel: str) -> None:
        super().__init__()
        self.kernel = kernel.removesuffix("_padded")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention or self.kernel == "math":
            return func(*args, **kwargs)
        (query, key, value), scale, mask = args, kwargs["scale"], kwargs.get("attn_mask")
        aten = torch.ops.aten
        if mask is not None or self.kernel == "efficient":
            is_causal = kwargs.get("is_causal", False)
            if mask is not None:
                mask = mask.to(query.dtype).expand(*query.shape[:3], key.shape[2])
            run = aten._scaled_dot_product_efficient_attention
            return run(query, key, value, mask, True, 0.0, is_causal, scale=scale)[0]
        if self.kernel == "cudnn":
            return aten._scaled_dot_product_cudnn_attention(query, key, value, None, True, 0.0, True, scale=scale)[0]
        return aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True, scale=scale)[0]
