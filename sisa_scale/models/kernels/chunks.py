"""What chunked recurrences share (`ssd`, `delta_rule`): cutting a sequence into chunks, and decays within and between.

Decays are summed and exponentiated in float32 or wider, as differences and masked before `exp`, so that nothing
overflows, however strong the decay. The same masks keep documents apart.

Shapes: B batch, L tokens, H heads, N channels, G groups of heads, E heads of a group, C chunks, T tokens of a chunk.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from sisa_scale.models.kernels.prefix_sum import same_document
from sisa_scale.models.precision import upcast


def masked_exp(to: Tensor, since: Tensor, position: Tensor, document: Tensor | None) -> Tensor:
    """Return exp(to_t - since_s) over the last dimension of both; an exact 0 where s is later than t.

    And where s is in another document than t; document broadcasts to the shape of the sums.
    """
    is_past = position[:, None] >= position
    if document is not None:
        is_past = is_past & (document[..., :, None] == document[..., None, :])
    return (to[..., :, None] - since[..., None, :]).masked_fill(~is_past, -torch.inf).exp()


def exp_where(is_same: Tensor | None, exponent_BGE: Tensor) -> Tensor:
    """Return the exponential, and an exact 0 where a state is of another document; is_same has no groups and heads."""
    if is_same is not None:
        exponent_BGE = exponent_BGE.masked_fill(~is_same[:, None, None], -torch.inf)
    return exponent_BGE.exp()


def chunked(x_BLHN: Tensor, chunk: int) -> Tensor:
    """Cut the length into chunks, heads first: (B, H, C, chunk, N); zeros fill the last: no input and no decay."""
    missing = -x_BLHN.shape[1] % chunk
    if missing:
        x_BLHN = pad(x_BLHN, (0, 0, 0, 0, 0, missing))
    return x_BLHN.unflatten(1, (-1, chunk)).permute(0, 3, 1, 2, 4).contiguous()


def chunked_tokens(x_BLH: Tensor, chunk: int, groups: int) -> Tensor:
    """Cut what every token has one of into chunks: (B, G, E, C, chunk), float32 or wider."""
    return chunked(upcast(x_BLH)[..., None], chunk)[..., 0].unflatten(1, (groups, -1))


def document_chunks(document_BL: Tensor, chunk: int) -> Tensor:
    """Cut the documents' numbers into chunks (B, C, chunk); the last document fills the last."""
    missing = -document_BL.shape[1] % chunk
    return torch.cat((document_BL, document_BL[:, -1:].expand(-1, missing)), dim=1).unflatten(1, (-1, chunk))


def chunk_prefix_sum(x_BGET: Tensor, document_BT: Tensor | None) -> Tensor:
    """Return inclusive sums over the last dimension, as a product; see `prefix_sum` for why it is not a `cumsum`.

    With documents, (B, ..., T), the sum of each begins anew: no other document's decay enters, not even its rounding.
    """
    if document_BT is None:
        length = x_BGET.shape[-1]
        return x_BGET @ torch.ones(length, length, dtype=x_BGET.dtype, device=x_BGET.device).triu()
    is_earlier_BTT = same_document(document_BT).to(x_BGET.dtype)
    return torch.einsum("bge...s,b...ts->bge...t", x_BGET, is_earlier_BTT)
