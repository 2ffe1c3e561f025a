"""Attention in a sliding window, a block of queries at a time, in stock attention calls.

Token i sees token j <= i if i - j < window. A block of at least as many queries as the window has tokens sees keys of
its own block and of the one before alone, so all blocks but the first are the batch of one call, with one mask of
block x 2 block: the work grows with length x window, not with the square of the length.

Shapes: B batch, L length, M keys, N blocks, T tokens of a block, U = 2 T, H heads, K channels of queries and keys,
J of values.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from sisa_scale.models.kernels.sdpa import MASK_ALIGNMENT, attend_where


def attend_window(
    q_BLHK: Tensor,
    k_BLHK: Tensor,
    v_BLHJ: Tensor,
    *,
    window_tokens: int,
    scale: float,
    document_BL: Tensor | None = None,
) -> Tensor:
    """Return softmax attention, (B, L, H, J).

    document_BL numbers the document of every token: each is read as if alone.
    """
    batch, length = q_BLHK.shape[:2]
    block = min(window_block_tokens(window_tokens), length)
    q_BNTHK, k_BNTHK, v_BNTHJ = (_in_blocks(x, block) for x in (q_BLHK, k_BLHK, v_BLHJ))
    place_U = torch.arange(2 * block, device=q_BLHK.device)
    sees_TU = sees(place_U[block:], place_U, window_tokens)
    documents = None if document_BL is None else _in_blocks(document_BL, block)
    first = attend_where(
        _mask(sees_TU[:, block:], q_BLHK, None if documents is None else (documents[:, 0], documents[:, 0])),
        q_BNTHK[:, 0], k_BNTHK[:, 0], v_BNTHJ[:, 0], scale=scale,
    )  # fmt: skip
    if length <= block:
        return first
    pairs = None if documents is None else (documents[:, 1:].flatten(0, 1), _with_previous(documents))
    later = attend_where(
        _mask(sees_TU, q_BLHK, pairs),
        q_BNTHK[:, 1:].flatten(0, 1), _with_previous(k_BNTHK), _with_previous(v_BNTHJ), scale=scale,
    )  # fmt: skip
    return torch.cat((first, later.unflatten(0, (batch, -1)).flatten(1, 2)), dim=1)[:, :length]


def window_block_tokens(window_tokens: int) -> int:
    """Return how many queries a block has: kernels read masks in place whose rows are aligned."""
    return -(-window_tokens // MASK_ALIGNMENT) * MASK_ALIGNMENT


def sees(query: Tensor, key: Tensor, window_tokens: int, num_first_tokens: int = 0) -> Tensor:
    """Return whether the token at a query's position, (..., L), sees the one at a key's, (..., M): (..., L, M).

    The first tokens are in sight of every window; a window of 0 is none.
    """
    query, key = query[..., :, None], key[..., None, :]
    is_seen = key <= query
    if window_tokens:
        is_seen = is_seen & ((query - key < window_tokens) | (key < num_first_tokens))
    return is_seen


def _mask(sees_TU: Tensor, like: Tensor, documents: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return what is added to logits, (1, T, U), or (B, T, U) with the documents of queries and keys."""
    is_hidden_BTU = ~sees_TU[None]
    if documents is not None:
        query_BT, key_BU = documents
        is_hidden_BTU = is_hidden_BTU | (query_BT[:, :, None] != key_BU[:, None, :])
    return torch.zeros((), dtype=like.dtype, device=like.device).masked_fill(is_hidden_BTU, -torch.inf)


def _in_blocks(x_BL: Tensor, block: int) -> Tensor:
    """Cut the length into blocks, (B, N, T, ...); zeros fill the last, after all tokens."""
    missing = -x_BL.shape[1] % block
    return pad(x_BL, (0, 0) * (x_BL.dim() - 2) + (0, missing)).unflatten(1, (-1, block))


def _with_previous(x_BNT: Tensor) -> Tensor:
    """Return every block but the first after the one before it, as a batch."""
    return torch.cat((x_BNT[:, :-1], x_BNT[:, 1:]), dim=2).flatten(0, 1)
