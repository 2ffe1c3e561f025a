"""State-space duality: a linear recurrence with scalar decay as chunked matrix products (Mamba-2, 2405.21060, sec. 6).

    h_t = exp(a_t) h_{t-1} + B_t x_t^T,    y_t = C_t^T h_t    (with keys B, queries C, values x, log-decays a <= 0)
    y_t = sum_{s <= t} exp(a_{s+1} + ... + a_t) (C_t . B_s) x_s

Within a chunk the sum is a masked product as in attention; between chunks it is carried by one state per chunk. A token
may hold several rows of keys, queries and values, as Mamba-3 MIMO does: its rows share one decay.

Decays are summed and exponentiated in float32 or wider, as differences and masked before `exp`, so that nothing
overflows, however strong the decay. The same masks keep documents apart. The large products are in the dtype of x, the
states between chunks again in float32 or wider.

Shapes: B batch, L tokens, R rows of a token, H heads, P head width, N state width, G groups of heads that share keys
and queries, E heads of a group (H = G E), C chunks, T tokens of a chunk, Q = T R rows of a chunk, S = C + 1 states.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from sisa_scale.models.precision import widen
from sisa_scale.models.scan import same_document
from sisa_scale.models.ssd_kernels import Scan


def ssd(
    x_BLHP: Tensor,
    log_decay_BLH: Tensor,
    keys_BLGN: Tensor,
    queries_BLGN: Tensor,
    *,
    chunk_tokens: int,
    initial_state: Tensor | None = None,
    strict: bool = False,
    document_BL: Tensor | None = None,
    kernel: Scan | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y_BLHP in the dtype of x and the state after the last token, (B, H, N, P) in float32 or wider.

    With R rows a token, the length of x, keys, queries and y is L R, the rows of a token side by side; log_decay_BLH
    has one entry a token. G divides H. With `strict`, y_t leaves out token t itself (s < t); the final state does not.
    document_BL numbers the document of every token: a new one begins with a state of 0 (the first, with the initial).
    `kernel` takes over tensors on a GPU; it is for one row a token, and not strict.
    """
    batch, rows, heads, width = x_BLHP.shape
    tokens, groups = log_decay_BLH.shape[1], keys_BLGN.shape[2]
    rank = rows // tokens
    if tokens == 1:
        if initial_state is None:
            initial_state = widen(x_BLHP).new_zeros(batch, heads, keys_BLGN.shape[3], width)
        return ssd_step(x_BLHP, log_decay_BLH[:, 0], keys_BLGN, queries_BLGN, initial_state, strict=strict)

    if kernel is not None and x_BLHP.is_cuda:
        return kernel(
            x_BLHP, log_decay_BLH, keys_BLGN, queries_BLGN,
            chunk_tokens=chunk_tokens, initial_state=initial_state, document_BL=document_BL,
        )  # fmt: skip

    chunk = min(chunk_tokens, tokens)
    with torch.autocast(x_BLHP.device.type, enabled=False):
        keys_BCQGN, queries_BCQGN = (_chunked(t.to(x_BLHP.dtype), chunk * rank) for t in (keys_BLGN, queries_BLGN))
        x_BCQGEP = _chunked(x_BLHP, chunk * rank).unflatten(3, (groups, -1))
        log_decay_BCTH = _chunked(widen(log_decay_BLH), chunk)
        document_BCT = document_BS = is_entered = is_left = None
        if document_BL is not None:
            document_BCT = _document_chunks(document_BL, chunk)
            document_BS = torch.cat((document_BL[:, :1], document_BCT[:, :, -1]), dim=1)
            is_entered, is_left = (
                document_BCT == part[..., None] for part in (document_BS[:, :-1], document_BS[:, 1:])
            )
        since_start_BCTH = _lower_triangle(chunk, log_decay_BCTH, document_BCT) @ log_decay_BCTH
        since_start_BCTGE = since_start_BCTH.unflatten(3, (groups, -1))
        from_start_BCQGE = _per_row(_exp_where(is_entered, since_start_BCTGE), rank)
        to_end_BCTGE = since_start_BCTGE[:, :, -1:] - since_start_BCTGE
        to_end_BCQGE = _per_row(_exp_where(is_left, to_end_BCTGE), rank)

        scaled_BCQGEP = (x_BCQGEP * to_end_BCQGE[..., None]).to(x_BLHP.dtype)
        added_BCGNEP = widen(torch.einsum("bcsgn,bcsgep->bcgnep", keys_BCQGN, scaled_BCQGEP))
        entry_BCGNEP = _states(added_BCGNEP, since_start_BCTGE[:, :, -1], initial_state, document_BS)
        carried_BCQGEP = torch.einsum("bctgn,bcgnep->bctgep", queries_BCQGN, entry_BCGNEP[:, :-1].to(x_BLHP.dtype))

        scores_BCGQQ = torch.einsum("bctgn,bcsgn->bcgts", queries_BCQGN, keys_BCQGN)
        decay_BCGEQQ = _decay_within(since_start_BCTGE, rank, strict, document_BCT)
        weights_BCGEQQ = (scores_BCGQQ[:, :, :, None] * decay_BCGEQQ).to(x_BLHP.dtype)
        y_BCQGEP = torch.einsum("bcgets,bcsgep->bctgep", weights_BCGEQQ, x_BCQGEP)
        y_BCQGEP = (y_BCQGEP + carried_BCQGEP * from_start_BCQGE[..., None]).to(x_BLHP.dtype)
    final_state_BHNP = entry_BCGNEP[:, -1].transpose(2, 3).flatten(1, 2)
    return y_BCQGEP.reshape(batch, -1, heads, width)[:, :rows], final_state_BHNP


def ssd_step(
    x_BRHP: Tensor,
    log_decay_BH: Tensor,
    keys_BRGN: Tensor,
    queries_BRGN: Tensor,
    state_BHNP: Tensor,
    *,
    strict: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return y_BRHP of one token and the state after it: the recurrence itself, in float32 or wider."""
    groups = keys_BRGN.shape[2]
    with torch.autocast(x_BRHP.device.type, enabled=False):
        x_BRGEP = widen(x_BRHP).unflatten(2, (groups, -1))
        before_BGENP = (widen(log_decay_BH).exp()[..., None, None] * state_BHNP).unflatten(1, (groups, -1))
        after_BGENP = before_BGENP + torch.einsum("brgn,brgep->bgenp", widen(keys_BRGN), x_BRGEP)
        read_BGENP = before_BGENP if strict else after_BGENP
        y_BRGEP = torch.einsum("brgn,bgenp->brgep", widen(queries_BRGN), read_BGENP)
    return y_BRGEP.flatten(2, 3).to(x_BRHP.dtype), after_BGENP.flatten(1, 2)


def _states(
    added_BCGNEP: Tensor, decay_BCGE: Tensor, initial_BHNP: Tensor | None, document_BS: Tensor | None
) -> Tensor:
    """Return the state on entry to every chunk and, last, after all of them: (B, C + 1, G, N, E, P).

    Each is a sum over the chunks before it of what they added, decayed by the chunks between: one product. A state
    belongs to one document, that of the token before it; document_BS numbers them.
    """
    groups, chunks = decay_BCGE.shape[2], decay_BCGE.shape[1]
    document_BC = None if document_BS is None else document_BS[:, 1:]
    since_start_BSH = _lower_triangle(chunks, decay_BCGE, document_BC) @ decay_BCGE.flatten(2)
    # Row i is entry to chunk i; column 0 is the initial state, column j + 1 the state that chunk j added.
    since_start_BGES = pad(since_start_BSH, (0, 0, 1, 0)).unflatten(2, (groups, -1)).permute(0, 2, 3, 1)
    document_BGES = None if document_BS is None else document_BS[:, None, None]
    place_S = torch.arange(chunks + 1, device=decay_BCGE.device)
    between_BGESS = _masked_exp(since_start_BGES, place_S, False, document_BGES)
    states_BSGNEP = torch.einsum("bgeij,bjgnep->bignep", between_BGESS[..., 1:], added_BCGNEP)
    if initial_BHNP is None:
        return states_BSGNEP
    initial_BGNEP = initial_BHNP.unflatten(1, (groups, -1)).transpose(2, 3)
    kept_BSGE = between_BGESS[..., 0].permute(0, 3, 1, 2)
    return states_BSGNEP + kept_BSGE[:, :, :, None, :, None] * initial_BGNEP[:, None]


def _decay_within(since_start_BCTGE: Tensor, rank: int, strict: bool, document_BCT: Tensor | None) -> Tensor:
    """Return the decay from row s to row t of a chunk, (B, C, G, E, Q, Q); 0 where s is not in the past of t."""
    document_BCGEQ = None if document_BCT is None else _per_row(document_BCT, rank)[:, :, None, None]
    tokens = torch.arange(since_start_BCTGE.shape[2], device=since_start_BCTGE.device)
    since_start_BCGEQ = _per_row(since_start_BCTGE, rank).permute(0, 1, 3, 4, 2)
    return _masked_exp(since_start_BCGEQ, _per_row(tokens[None, None], rank)[0, 0], strict, document_BCGEQ)


def _masked_exp(sums: Tensor, position: Tensor, strict: bool, document: Tensor | None) -> Tensor:
    """Return exp(sums_t - sums_s) over the last dimension; an exact 0 where s is later than t, or as late if strict.

    And where s is in another document than t; document broadcasts to the shape of the sums.
    """
    is_past = position[:, None] > position if strict else position[:, None] >= position
    if document is not None:
        is_past = is_past & (document[..., :, None] == document[..., None, :])
    return (sums[..., :, None] - sums[..., None, :]).masked_fill(~is_past, -torch.inf).exp()


def _exp_where(is_same_BCT: Tensor | None, exponent_BCTGE: Tensor) -> Tensor:
    """Return the exponential, and an exact 0 where a state is of another document."""
    if is_same_BCT is not None:
        exponent_BCTGE = exponent_BCTGE.masked_fill(~is_same_BCT[..., None, None], -torch.inf)
    return exponent_BCTGE.exp()


def _per_row(x_BCT: Tensor, rank: int) -> Tensor:
    """Repeat every token's entry (third dimension) for each of its rows."""
    return x_BCT.unsqueeze(3).expand(*x_BCT.shape[:3], rank, *x_BCT.shape[3:]).flatten(2, 3)


def _chunked(x_BL: Tensor, chunk: int) -> Tensor:
    """Cut the length into chunks (B, C, chunk, ...); zeros fill the last: no input and no decay."""
    missing = -x_BL.shape[1] % chunk
    if missing:
        x_BL = pad(x_BL, (0, 0) * (x_BL.dim() - 2) + (0, missing))
    return x_BL.unflatten(1, (-1, chunk))


def _document_chunks(document_BL: Tensor, chunk: int) -> Tensor:
    """Cut the documents' numbers into chunks (B, C, chunk); the last document fills the last."""
    missing = -document_BL.shape[1] % chunk
    return torch.cat((document_BL, document_BL[:, -1:].expand(-1, missing)), dim=1).unflatten(1, (-1, chunk))


def _lower_triangle(size: int, like: Tensor, document: Tensor | None) -> Tensor:
    """Return the matrix whose product is an inclusive prefix sum; see `scan` for why it is not a `cumsum`.

    With documents, (..., size), the sum of each begins anew: no other document's decay enters, not even its rounding.
    """
    if document is not None:
        return same_document(document).to(like.dtype)
    return torch.ones(size, size, dtype=like.dtype, device=like.device).tril()
