"""State-space duality: a linear recurrence with scalar decay as chunked matrix products (Mamba-2, 2405.21060, sec. 6).

    h_t = exp(a_t) h_{t-1} + B_t x_t^T,    y_t = C_t^T h_t    (with keys B, queries C, values x, log-decays a <= 0)
    y_t = sum_{s <= t} exp(a_{s+1} + ... + a_t) (C_t . B_s) x_s

A token may enter the state with a weight, and its own output with another, as the trapezoid of Mamba-3 has it, and be
added to its own output (the skip D):

    h_t = exp(a_t) h_{t-1} + w_t B_t x_t^T,    y_t = C_t^T (exp(a_t) h_{t-1} + u_t B_t x_t^T) + D x_t

Within a chunk the sum is a masked product as in attention; between chunks it is carried by one state per chunk. A token
may hold several rows of keys, queries and values, as Mamba-3 MIMO does: its rows share one decay.

Decays are summed and exponentiated in float32 or wider, as differences and masked before `exp`, so that nothing
overflows, however strong the decay. The same masks keep documents apart. All other products are in the dtype of x, with
sums in float32 or wider.

Memory traffic is what a scan costs on a GPU. So heads come before the length here: every product then reads its factors
as they lie. And all functions of the decays stand before the first product: torch.compile computes them again for the
backward pass rather than keep them, but only what lies this close to its source.

Shapes: B batch, L tokens, R rows of a token, H heads, P head width, N state width, G groups of heads that share keys
and queries, E heads of a group (H = G E), C chunks, T tokens of a chunk, Q = T R rows of a chunk, S = C + 1 states.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from sisa_scale.models.kernels.chunks import (
    chunk_prefix_sum,
    chunked,
    chunked_tokens,
    document_chunks,
    exp_where,
    masked_exp,
)
from sisa_scale.models.kernels.materialize import materialize
from sisa_scale.models.kernels.ssd_triton import Scan
from sisa_scale.models.precision import upcast


class TokenWeights(NamedTuple):
    """What every token weighs in the state that later tokens read (w), and in its own output (u): float32 or wider."""

    later: Tensor
    own: Tensor


def ssd(
    x_BLHP: Tensor,
    log_decay_BLH: Tensor,
    keys_BLGN: Tensor,
    queries_BLGN: Tensor,
    *,
    chunk_tokens: int,
    initial_state: Tensor | None = None,
    weights: TokenWeights | None = None,
    skip_H: Tensor | None = None,
    document_BL: Tensor | None = None,
    kernel: Scan | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y_BLHP and the state after the last token, (B, H, N, P): float32 or wider, but y of `kernel` as x.

    With R rows a token, the length of x, keys, queries and y is L R, the rows of a token side by side; log_decay_BLH
    and `weights`, which are 1 if None, have one entry a token. G divides H. skip_H is 0 if None.
    document_BL numbers the document of every token: a new one begins with a state of 0 (the first, with the initial).
    `kernel` takes over tensors on a GPU; it is for one row a token, without weights and skip.
    """
    batch, rows, heads, width = x_BLHP.shape
    tokens, groups = log_decay_BLH.shape[1], keys_BLGN.shape[2]
    rank = rows // tokens
    if tokens == 1:
        if initial_state is None:
            initial_state = upcast(x_BLHP).new_zeros(batch, heads, keys_BLGN.shape[3], width)
        return ssd_step(x_BLHP, log_decay_BLH[:, 0], keys_BLGN, queries_BLGN, initial_state, weights, skip_H)

    if kernel is not None and x_BLHP.is_cuda:
        return kernel(
            x_BLHP, log_decay_BLH, keys_BLGN, queries_BLGN,
            chunk_tokens=chunk_tokens, initial_state=initial_state, document_BL=document_BL,
        )  # fmt: skip

    chunk = min(chunk_tokens, tokens)
    with torch.autocast(x_BLHP.device.type, enabled=False):
        keys_BGCQN, queries_BGCQN = (chunked(t.to(x_BLHP.dtype), chunk * rank) for t in (keys_BLGN, queries_BLGN))
        x_BGECQP = chunked(x_BLHP, chunk * rank).unflatten(1, (groups, -1))
        log_decay_BGECT = chunked_tokens(log_decay_BLH, chunk, groups)
        document_BCT = None if document_BL is None else document_chunks(document_BL, chunk)
        weights_BGECT = weights and TokenWeights(
            *(materialize(chunked_tokens(w_BLH, chunk, groups)) for w_BLH in weights)
        )
        decays = _Decays.of(log_decay_BGECT, weights_BGECT, document_BL, document_BCT, rank)

        scaled_BGECQP = (x_BGECQP * decays.to_end_BGECQ[..., None]).to(x_BLHP.dtype)
        added_BGECNP = _added(keys_BGCQN, scaled_BGECQP)
        entry_BGECNP = torch.einsum("bgeij,bgejnp->bgeinp", decays.between_BGECC.to(x_BLHP.dtype), added_BGECNP)
        if initial_state is not None:
            initial_BGE1NP = initial_state.unflatten(1, (groups, -1))[:, :, :, None]
            entry_BGECNP = entry_BGECNP + decays.since_initial_BGEC[..., None, None] * initial_BGE1NP
        carried_BGECQP = torch.einsum("bgctn,bgecnp->bgectp", queries_BGCQN, entry_BGECNP.to(x_BLHP.dtype))

        scores_BGCQQ = _scores(queries_BGCQN, keys_BGCQN)
        weights_BGECQQ = scores_BGCQQ[:, :, None] * decays.within_BGECQQ
        if skip_H is not None:
            is_own_QQ = torch.eye(chunk * rank, dtype=torch.bool, device=skip_H.device)
            skip_BGECQ = skip_H.view(groups, -1, 1, 1).expand_as(decays.to_end_BGECQ)
            weights_BGECQQ = weights_BGECQQ + torch.where(is_own_QQ, skip_BGECQ[..., None], 0.0)
        y_BGECQP = torch.einsum("bgects,bgecsp->bgectp", weights_BGECQQ.to(x_BLHP.dtype), x_BGECQP)
        y_BGECQP = y_BGECQP + carried_BGECQP * decays.from_start_BGECQ[..., None]
        last_BGENP = decays.through_last_BGE[..., None, None] * entry_BGECNP[:, :, :, -1] + added_BGECNP[:, :, :, -1]
    y_BLHP = y_BGECQP.flatten(3, 4).flatten(1, 2).transpose(1, 2)[:, :rows]
    return y_BLHP, upcast(last_BGENP).flatten(1, 2)


def ssd_step(
    x_BRHP: Tensor,
    log_decay_BH: Tensor,
    keys_BRGN: Tensor,
    queries_BRGN: Tensor,
    state_BHNP: Tensor,
    weights_B1H: TokenWeights | None = None,
    skip_H: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y_BRHP of one token and the state after it: the recurrence itself, in float32 or wider."""
    heads, groups = x_BRHP.shape[2], keys_BRGN.shape[2]
    with torch.autocast(x_BRHP.device.type, enabled=False):
        x_BRGEP = upcast(x_BRHP).unflatten(2, (groups, -1))
        before_BGENP = (upcast(log_decay_BH).exp()[..., None, None] * state_BHNP).unflatten(1, (groups, -1))
        token_BGENP = torch.einsum("brgn,brgep->bgenp", upcast(keys_BRGN), x_BRGEP)
        after_BGENP = read_BGENP = before_BGENP + token_BGENP
        if weights_B1H is not None:
            later_BGE11, own_BGE11 = (w_B1H.view(-1, groups, heads // groups, 1, 1) for w_B1H in weights_B1H)
            after_BGENP = before_BGENP + later_BGE11 * token_BGENP
            read_BGENP = before_BGENP + own_BGE11 * token_BGENP
        y_BRGEP = torch.einsum("brgn,bgenp->brgep", upcast(queries_BRGN), read_BGENP)
    y_BRHP = y_BRGEP.flatten(2, 3)
    if skip_H is not None:
        y_BRHP = y_BRHP + skip_H[:, None] * x_BRHP
    return y_BRHP, after_BGENP.flatten(1, 2)


class _Decays(NamedTuple):
    """What the products of a scan are weighted with, float32 or wider: 0 between documents."""

    within_BGECQQ: Tensor  # from row s to row t of a chunk; 0 where s is not in the past of t
    from_start_BGECQ: Tensor  # from the state on entry to a row
    to_end_BGECQ: Tensor  # from a row to the state after its chunk
    between_BGECC: Tensor  # from what chunk j adds to the state on entry to chunk i; 0 unless j is before i
    since_initial_BGEC: Tensor  # from the initial state to that on entry to chunk i
    through_last_BGE: Tensor  # through the last chunk

    @classmethod
    def of(
        cls,
        log_decay_BGECT: Tensor,
        weights_BGECT: TokenWeights | None,
        document_BL: Tensor | None,
        document_BCT: Tensor | None,
        rank: int,
    ) -> "_Decays":
        """Sum and exponentiate. A state belongs to the document of the token before it, the first to the first."""
        document_BS = is_entered = is_left = is_kept = None
        if document_BL is not None and document_BCT is not None:
            document_BS = torch.cat((document_BL[:, :1], document_BCT[:, :, -1]), dim=1)
            is_entered, is_left = (
                document_BCT == part[..., None] for part in (document_BS[:, :-1], document_BS[:, 1:])
            )
            is_kept = document_BS[:, -2] == document_BS[:, -1]
        since_start_BGECT = chunk_prefix_sum(log_decay_BGECT, document_BCT)
        whole_BGEC = since_start_BGECT[..., -1]
        # Place i is that before chunk i, and the state there: the initial one, then what each chunk leaves.
        sums_BGES = pad(chunk_prefix_sum(whole_BGEC, None if document_BS is None else document_BS[:, 1:]), (1, 0))
        between_BGESS = masked_exp(
            sums_BGES,
            sums_BGES,
            torch.arange(sums_BGES.shape[-1], device=sums_BGES.device),
            None if document_BS is None else document_BS[:, None, None],
        )
        to_end_BGECT = exp_where(is_left, whole_BGEC[..., None] - since_start_BGECT)
        if weights_BGECT is not None:
            to_end_BGECT = to_end_BGECT * weights_BGECT.later
        return cls(
            within_BGECQQ=_within(since_start_BGECT, weights_BGECT, document_BCT, rank),
            from_start_BGECQ=_per_row(exp_where(is_entered, since_start_BGECT), rank),
            to_end_BGECQ=_per_row(to_end_BGECT, rank),
            between_BGECC=between_BGESS[..., :-1, 1:],
            since_initial_BGEC=between_BGESS[..., :-1, 0],
            through_last_BGE=exp_where(is_kept, whole_BGEC[..., -1]),
        )


def _within(
    since_start_BGECT: Tensor, weights_BGECT: TokenWeights | None, document_BCT: Tensor | None, rank: int
) -> Tensor:
    """Return what rows weigh in the rows of their chunk, (B, G, E, C, Q, Q).

    The decay up to row s stands in a factor of its own, which is 1. Its gradient is a sum over the later rows that the
    weight of s has as well; by the exponent it is one more, for which torch.compile stores the gradient of every pair.
    """
    token_Q = _per_row(torch.arange(since_start_BGECT.shape[-1], device=since_start_BGECT.device), rank)
    document_BGECQ = None if document_BCT is None else _per_row(document_BCT, rank)[:, None, None]
    to_row_BGECQ = _per_row(since_start_BGECT, rank)
    decay_BGECQQ = masked_exp(to_row_BGECQ, to_row_BGECQ.detach(), token_Q, document_BGECQ)
    later_BGECQ = (to_row_BGECQ.detach() - to_row_BGECQ).exp()
    if weights_BGECT is None:
        return decay_BGECQQ * later_BGECQ[..., None, :]
    later_BGECQ = later_BGECQ * _per_row(weights_BGECT.later, rank)
    own_BGECQ = _per_row(weights_BGECT.own, rank)
    is_own_QQ = token_Q[:, None] == token_Q
    return torch.where(is_own_QQ, own_BGECQ[..., None], decay_BGECQQ * later_BGECQ[..., None, :])


def _scores(queries_BGCQN: Tensor, keys_BGCQN: Tensor) -> Tensor:
    """Return the product of all queries and keys of a chunk, (B, G, C, Q, Q)."""
    return _Scores.apply(queries_BGCQN, keys_BGCQN)  # type: ignore[no-untyped-call]


def _added(keys_BGCQN: Tensor, x_BGECQP: Tensor) -> Tensor:
    """Return what the rows of a chunk add to its state, (B, G, E, C, N, P).

    Keys that heads share are small, and it matters little how their gradient lies.
    """
    if x_BGECQP.shape[2] > 1:
        return torch.einsum("bgcsn,bgecsp->bgecnp", keys_BGCQN, x_BGECQP).contiguous()
    # Not in `forward`: torch 2.11's compiler drops the gradient of a result that `contiguous` hands on as it is.
    return _Added.apply(keys_BGCQN, x_BGECQP).contiguous()  # type: ignore[no-untyped-call]


class _Scores(torch.autograd.Function):
    """Autograd gives keys, the second factor, a gradient that lies transposed: slow to read on a GPU."""

    @staticmethod
    def forward(ctx: Any, queries_BGCQN: Tensor, keys_BGCQN: Tensor) -> Tensor:
        ctx.save_for_backward(queries_BGCQN, keys_BGCQN)
        return torch.einsum("bgctn,bgcsn->bgcts", queries_BGCQN, keys_BGCQN)

    @staticmethod
    def backward(ctx: Any, gradient_BGCQQ: Tensor) -> tuple[Tensor, Tensor]:
        queries_BGCQN, keys_BGCQN = ctx.saved_tensors
        return (
            torch.einsum("bgcts,bgcsn->bgctn", gradient_BGCQQ, keys_BGCQN),
            torch.einsum("bgcts,bgctn->bgcsn", gradient_BGCQQ, queries_BGCQN),
        )


class _Added(torch.autograd.Function):
    """As `_Scores`: here keys are the first factor, but transposed."""

    @staticmethod
    def forward(ctx: Any, keys_BGCQN: Tensor, x_BGECQP: Tensor) -> Tensor:
        ctx.save_for_backward(keys_BGCQN, x_BGECQP)
        return torch.einsum("bgcsn,bgecsp->bgecnp", keys_BGCQN, x_BGECQP)

    @staticmethod
    def backward(ctx: Any, gradient_BGECNP: Tensor) -> tuple[Tensor, Tensor]:
        keys_BGCQN, x_BGECQP = ctx.saved_tensors
        return (
            torch.einsum("bgecsp,bgecnp->bgcsn", x_BGECQP, gradient_BGECNP),
            torch.einsum("bgcsn,bgecnp->bgecsp", keys_BGCQN, gradient_BGECNP),
        )


def _per_row(x_T: Tensor, rank: int) -> Tensor:
    """Repeat every token's entry (last dimension) for each of its rows."""
    return x_T[..., None].expand(*x_T.shape, rank).flatten(-2)
