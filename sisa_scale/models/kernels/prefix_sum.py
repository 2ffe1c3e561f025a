"""Prefix sums as blocked triangular matrix products.

A plain `cumsum` over the length is slow on GPUs, is not deterministic there, and breaks into a split scan under
torch.compile; two small triangular products are fast, deterministic and fuse.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK_TOKENS = 64


def prefix_sum(x_BLC: Tensor, document_BL: Tensor | None = None) -> Tensor:
    """Return the inclusive sum over the length of x_BLC (float32 or float64), same shape and dtype.

    Position t of the result depends on positions <= t alone: later ones are multiplied by an exact 0. With document_BL,
    the number of every token's document, so are those of other documents: each has a sum of its own.
    """
    batch, length, channels = x_BLC.shape
    if length == 1:
        return x_BLC
    blocks = -(-length // BLOCK_TOKENS)
    missing = blocks * BLOCK_TOKENS - length
    x_BNTC = pad(x_BLC, (0, 0, 0, missing)).view(batch, blocks, BLOCK_TOKENS, channels)
    if document_BL is not None:
        document_BNT = pad(document_BL, (0, missing)).view(batch, blocks, BLOCK_TOKENS)
        return _by_documents(x_BNTC, document_BNT).view(batch, -1, channels)[:, :length]
    within_BNTC = _lower_triangle(BLOCK_TOKENS, 0, x_BLC) @ x_BNTC
    before_BNC = _lower_triangle(blocks, -1, x_BLC) @ x_BNTC.sum(2)
    return (within_BNTC + before_BNC.unsqueeze(2)).view(batch, -1, channels)[:, :length]


def _by_documents(x_BNTC: Tensor, document_BNT: Tensor) -> Tensor:
    """Return the sums within documents: what a block hands on is the sum of the document that it ends in."""
    last_BN = document_BNT[:, :, -1]
    within_BNTC = same_document(document_BNT).to(x_BNTC.dtype) @ x_BNTC
    through_BNC = same_document(last_BN).to(x_BNTC.dtype) @ within_BNTC[:, :, -1]
    is_continued_BNT = document_BNT[:, 1:] == last_BN[:, :-1, None]
    before_BNTC = through_BNC[:, :-1, None] * is_continued_BNT[..., None]
    return within_BNTC + pad(before_BNTC, (0, 0, 0, 0, 1, 0))


def same_document(document_BL: Tensor) -> Tensor:
    """Return which tokens of (..., L) are up to each token in its own document, (..., L, L)."""
    return (document_BL[..., :, None] == document_BL[..., None, :]).tril()


def _lower_triangle(size: int, diagonal: int, like: Tensor) -> Tensor:
    return torch.ones(size, size, dtype=like.dtype, device=like.device).tril(diagonal)
