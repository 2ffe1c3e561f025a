"""What `forward` is given, checked: what a model does not have is refused, not passed over.

Shapes: B batch, L length, M length with the tokens before.
"""

from typing import Any

import torch
from torch import Tensor


def check_known(kwargs: dict[str, Any]) -> None:
    """Raise ValueError for an argument that asks for something."""
    unknown = [name for name, value in kwargs.items() if value is not None and value is not False]
    if unknown:
        raise ValueError(f"this model does not have {', '.join(unknown)}: leave it out")


def check_positions(position_ids: Tensor | None, mask: Tensor | None, num_before: int) -> None:
    """Raise ValueError unless the positions are those that follow from the mask."""
    if position_ids is None:
        return
    length = position_ids.shape[-1]
    if mask is None:
        is_wrong = position_ids != torch.arange(num_before, num_before + length, device=position_ids.device)
    else:
        is_token_BM = two_dimensional(mask).to(position_ids.device)
        is_wrong = (position_ids != is_token_BM.cumsum(-1)[:, -length:] - 1) & is_token_BM[:, -length:]
    if is_wrong.any():
        raise ValueError(
            "position_ids differ from those of the attention mask: this model counts every row from its first token, "
            "and reads packed sequences as one; give each sequence a row of its own"
        )


def two_dimensional(mask: Tensor) -> Tensor:
    """Return which columns of every row are tokens; raises ValueError for masks that say more."""
    if mask.dim() != 2:
        raise ValueError(f"an attention mask of shape {list(mask.shape)}: it has one column for each token")
    return mask.bool()
