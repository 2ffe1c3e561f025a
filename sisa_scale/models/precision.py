"""Where bf16 is not enough."""

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """Return x in fp32, or as it is when it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
