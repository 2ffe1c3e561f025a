"""The gated delta rule as chunked matrix products (Yang, Kautz & Hatamizadeh 2024, 2412.06464, section 3.3).

    S_t = a_t S_{t-1} + b_t k_t (v_t - a_t S_{t-1}^T k_t)^T,    y_t = S_t^T q_t

with keys k of length 1, queries q, values v, decays a_t = exp(log_decay_t) and rates b_t in [0, 1]: the state forgets
by a, and what it holds under a key moves by b towards the value.

In a chunk that begins with the state S, with g the sum of log-decays since its start, what the tokens add is

    d = (I + T)^-1 b (v - e^g K S),    T_ij = b_i e^(g_i - g_j) k_i . k_j for j < i, else 0

    y_i = e^g_i S^T q_i + sum_{j <= i} e^(g_i - g_j) (q_i . k_j) d_j
    S' = e^g_T S + sum_j e^(g_T - g_j) k_j d_j^T

so that S' = M S + N with M and N of the chunk alone: products of all chunks at once, and one small product a chunk that
carries the state, in float32 or wider.

The inverse. T is strictly lower triangular, so over n = 2^m tokens (I + T)^-1 is the finite product of the
I + (-T)^(2^k), k < m. But powers of T grow like binomials where keys repeat, as they do in runs of one token: over 64
equal keys the product is off by 10^2 at b = 0.5, and by 10^9 at b = 1, in float32. So it is taken over BASE_TOKENS
tokens, where no entry of a power exceeds 20, and pairs of neighbours are joined by what is left of their T: as exact as
forward substitution.

Decays are exponentiated as differences, masked before `exp` (see `chunks`). Products are in the dtype of the values,
with sums in float32 or wider; the inverse and the states are float32 or wider.

Shapes: B batch, L tokens, G heads of keys and queries, E heads of values for each (H = G E), N key width, P head width,
C chunks, T tokens of a chunk, S = C + 1 states, X heads of all sequences.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sisa_scale.config.mixers.gated_deltanet import BASE_TOKENS
from sisa_scale.models.kernels.chunks import (
    chunk_prefix_sum,
    chunked,
    chunked_tokens,
    document_chunks,
    exp_where,
    masked_exp,
)
from sisa_scale.models.kernels.delta_rule_fla import DeltaRule
from sisa_scale.models.precision import upcast


def delta_rule(
    values_BLHP: Tensor,
    log_decay_BLH: Tensor,
    rate_BLH: Tensor,
    keys_BLGN: Tensor,
    queries_BLGN: Tensor,
    *,
    chunk_tokens: int,
    initial_state: Tensor | None = None,
    document_BL: Tensor | None = None,
    kernel: DeltaRule | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y_BLHP and the state after the last token, (B, H, N, P): float32 or wider, but y of `kernel` as values.

    G divides H. chunk_tokens is a power of two, BASE_TOKENS at least. document_BL numbers the document of every token:
    a new one begins with a state of 0 (the first, with the initial). `kernel` takes over tensors on a GPU.
    """
    batch, tokens, heads, width = values_BLHP.shape
    groups, key_width = keys_BLGN.shape[2:]
    if initial_state is None:
        initial_state = upcast(values_BLHP).new_zeros(batch, heads, key_width, width)
    if tokens == 1:
        return delta_rule_step(values_BLHP, log_decay_BLH[:, 0], rate_BLH[:, 0], keys_BLGN, queries_BLGN, initial_state)
    if kernel is not None and values_BLHP.is_cuda:
        return kernel(values_BLHP, log_decay_BLH, rate_BLH, keys_BLGN, queries_BLGN, initial_state, document_BL)

    dtype = values_BLHP.dtype
    with torch.autocast(values_BLHP.device.type, enabled=False):
        keys_BGCTN, queries_BGCTN = (chunked(x.to(dtype), chunk_tokens) for x in (keys_BLGN, queries_BLGN))
        values_BGECTP = chunked(values_BLHP, chunk_tokens).unflatten(1, (groups, -1))
        rate_BGECT = chunked_tokens(rate_BLH, chunk_tokens, groups)
        document_BCT = None if document_BL is None else document_chunks(document_BL, chunk_tokens)
        decays = _Decays.of(chunked_tokens(log_decay_BLH, chunk_tokens, groups), document_BL, document_BCT)

        likeness_BGCTT = torch.einsum("bgctn,bgcsn->bgcts", keys_BGCTN, keys_BGCTN)
        scores_BGCTT = torch.einsum("bgctn,bgcsn->bgcts", queries_BGCTN, keys_BGCTN)
        earlier_BGECTT = (rate_BGECT[..., None] * decays.within_BGECTT * likeness_BGCTT[:, :, None]).tril(-1)
        solved_BGECTT = unit_lower_inverse(earlier_BGECTT) * rate_BGECT[..., None, :]
        wanted_BGECTP = torch.einsum("bgects,bgecsp->bgectp", solved_BGECTT.to(dtype), values_BGECTP)
        reads_BGECTT = (solved_BGECTT * decays.from_start_BGECT[..., None, :]).to(dtype)
        reading_BGECTN = torch.einsum("bgects,bgcsn->bgectn", reads_BGECTT, keys_BGCTN)

        to_end_BGECT1 = decays.to_end_BGECT[..., None]
        added_BGECNP = torch.einsum("bgctn,bgectp->bgecnp", keys_BGCTN, (wanted_BGECTP * to_end_BGECT1).to(dtype))
        erased_BGECNM = torch.einsum("bgctn,bgectm->bgecnm", keys_BGCTN, (reading_BGECTN * to_end_BGECT1).to(dtype))
        kept_BGECNM = torch.eye(key_width, dtype=to_end_BGECT1.dtype, device=to_end_BGECT1.device)
        transition_BGECNM = decays.through_BGEC[..., None, None] * kept_BGECNM - erased_BGECNM
        states_XSNP = carried_states(
            transition_BGECNM.flatten(0, 2), upcast(added_BGECNP).flatten(0, 2), initial_state.flatten(0, 1)
        )
        entry_BGECNP = states_XSNP[:, :-1].unflatten(0, (batch, groups, -1)).to(dtype)

        change_BGECTP = wanted_BGECTP - torch.einsum("bgectn,bgecnp->bgectp", reading_BGECTN, entry_BGECNP)
        weights_BGECTT = (scores_BGCTT[:, :, None] * decays.within_BGECTT).to(dtype)
        y_BGECTP = torch.einsum("bgects,bgecsp->bgectp", weights_BGECTT, change_BGECTP)
        carried_BGECTP = torch.einsum("bgctn,bgecnp->bgectp", queries_BGCTN, entry_BGECNP)
        y_BGECTP = y_BGECTP + carried_BGECTP * decays.from_start_BGECT[..., None]
    y_BLHP = y_BGECTP.flatten(3, 4).flatten(1, 2).transpose(1, 2)[:, :tokens]
    return y_BLHP, states_XSNP[:, -1].unflatten(0, (batch, heads))


def delta_rule_step(
    values_B1HP: Tensor,
    log_decay_BH: Tensor,
    rate_BH: Tensor,
    keys_B1GN: Tensor,
    queries_B1GN: Tensor,
    state_BHNP: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return y_B1HP of one token and the state after it: the recurrence itself, in float32 or wider."""
    per_key = values_B1HP.shape[2] // keys_B1GN.shape[2]
    with torch.autocast(values_B1HP.device.type, enabled=False):
        k_BHN, q_BHN = (upcast(x[:, 0]).repeat_interleave(per_key, dim=1) for x in (keys_B1GN, queries_B1GN))
        before_BHNP = upcast(log_decay_BH).exp()[..., None, None] * state_BHNP
        held_BHP = torch.einsum("bhn,bhnp->bhp", k_BHN, before_BHNP)
        change_BHP = upcast(rate_BH)[..., None] * (upcast(values_B1HP[:, 0]) - held_BHP)
        after_BHNP = before_BHNP + k_BHN[..., None] * change_BHP[:, :, None]
        return torch.einsum("bhn,bhnp->bhp", q_BHN, after_BHNP)[:, None], after_BHNP


def unit_lower_inverse(earlier_BTT: Tensor) -> Tensor:
    """Return (I + T)^-1 of strictly lower triangular T, (..., T, T), in float32 or wider."""
    return _UnitLowerInverse.apply(upcast(earlier_BTT))  # type: ignore[no-untyped-call]


def carried_states(transition_XCNM: Tensor, added_XCNP: Tensor, initial_XNP: Tensor) -> Tensor:
    """Return S_0 = initial and S_{c+1} = M_c S_c + N_c of every chunk, (X, S, N, P)."""
    return _CarriedStates.apply(transition_XCNM, added_XCNP, initial_XNP)  # type: ignore[no-untyped-call]


class _Decays(NamedTuple):
    """What the products of a chunk are weighted with, float32 or wider: 0 between documents."""

    within_BGECTT: Tensor  # from token s to token t of a chunk; 0 where s is later than t
    from_start_BGECT: Tensor  # from the state on entry through a token
    to_end_BGECT: Tensor  # from a token to the state after its chunk
    through_BGEC: Tensor  # from the state on entry to that after the chunk

    @classmethod
    def of(cls, log_decay_BGECT: Tensor, document_BL: Tensor | None, document_BCT: Tensor | None) -> "_Decays":
        """Sum and exponentiate. A state belongs to the document of the token before it, the first to the first."""
        is_entered = is_left = is_kept = document_BGECT = None
        if document_BL is not None and document_BCT is not None:
            document_BS = torch.cat((document_BL[:, :1], document_BCT[:, :, -1]), dim=1)
            is_entered, is_left = (
                document_BCT == part[..., None] for part in (document_BS[:, :-1], document_BS[:, 1:])
            )
            is_kept = document_BS[:, :-1] == document_BS[:, 1:]
            document_BGECT = document_BCT[:, None, None]
        since_start_BGECT = chunk_prefix_sum(log_decay_BGECT, document_BCT)
        whole_BGEC = since_start_BGECT[..., -1]
        token_T = torch.arange(since_start_BGECT.shape[-1], device=since_start_BGECT.device)
        return cls(
            within_BGECTT=masked_exp(since_start_BGECT, since_start_BGECT, token_T, document_BGECT),
            from_start_BGECT=exp_where(is_entered, since_start_BGECT),
            to_end_BGECT=exp_where(is_left, whole_BGEC[..., None] - since_start_BGECT),
            through_BGEC=exp_where(is_kept, whole_BGEC),
        )


class _UnitLowerInverse(torch.autograd.Function):
    """A = (I + T)^-1. Its gradient is two products, -A^T g A^T, where those of all steps would be many small ones."""

    @staticmethod
    def forward(ctx: Any, earlier_BTT: Tensor) -> Tensor:
        inverse_BTT = _inverse_by_doubling(earlier_BTT)
        ctx.save_for_backward(inverse_BTT)
        return inverse_BTT

    @staticmethod
    def backward(ctx: Any, gradient_BTT: Tensor) -> Tensor:
        (inverse_BTT,) = ctx.saved_tensors
        return -(inverse_BTT.mT @ gradient_BTT @ inverse_BTT.mT)


def _inverse_by_doubling(earlier_BTT: Tensor) -> Tensor:
    """Invert blocks of BASE_TOKENS by the finite product, then join neighbours, n tokens each, until there is one."""
    tokens, size = earlier_BTT.shape[-1], BASE_TOKENS
    power_BNSS = _blocks(earlier_BTT, size, 0, 0)
    inverse_BNSS = torch.eye(size, dtype=earlier_BTT.dtype, device=earlier_BTT.device) - power_BNSS
    exponent = 2
    while exponent < size:
        power_BNSS = power_BNSS @ power_BNSS
        inverse_BNSS = inverse_BNSS + inverse_BNSS @ power_BNSS
        exponent *= 2
    while size < tokens:
        first_BNSS, second_BNSS = inverse_BNSS[..., 0::2, :, :], inverse_BNSS[..., 1::2, :, :]
        # Of [[A, 0], [T, B]]^-1 below the diagonal: -B^-1 T A^-1, with the inverses of A and B at hand.
        below_BNSS = -(second_BNSS @ (_blocks(earlier_BTT, 2 * size, size, 0) @ first_BNSS))
        upper = torch.cat((first_BNSS, torch.zeros_like(first_BNSS)), dim=-1)
        inverse_BNSS = torch.cat((upper, torch.cat((below_BNSS, second_BNSS), dim=-1)), dim=-2)
        size *= 2
    return inverse_BNSS.squeeze(-3)


def _blocks(matrix_BTT: Tensor, step: int, row: int, column: int) -> Tensor:
    """Return the square blocks (..., n, s, s) that begin at multiples of `step`, plus row and column.

    s is what is left of a step: of all of it from 0, of its second half from half of it.
    """
    size = step - row
    starts = range(0, matrix_BTT.shape[-1], step)
    blocks = [matrix_BTT[..., i + row : i + row + size, i + column : i + column + size] for i in starts]
    return torch.stack(blocks, dim=-3)


class _CarriedStates(torch.autograd.Function):
    """One product a chunk in either direction; the gradients of all transitions are one product of all chunks."""

    @staticmethod
    def forward(ctx: Any, transition_XCNM: Tensor, added_XCNP: Tensor, initial_XNP: Tensor) -> Tensor:
        states = [initial_XNP]
        for chunk in range(added_XCNP.shape[1]):
            states.append(torch.baddbmm(added_XCNP[:, chunk], transition_XCNM[:, chunk], states[-1]))
        states_XSNP = torch.stack(states, dim=1)
        ctx.save_for_backward(transition_XCNM, states_XSNP)
        return states_XSNP

    @staticmethod
    def backward(ctx: Any, gradient_XSNP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        transition_XCNM, states_XSNP = ctx.saved_tensors
        state_XNP, added = gradient_XSNP[:, -1], []
        for chunk in reversed(range(transition_XCNM.shape[1])):
            added.append(state_XNP)
            state_XNP = torch.baddbmm(gradient_XSNP[:, chunk], transition_XCNM[:, chunk].mT, state_XNP)
        added_XCNP = torch.stack(added[::-1], dim=1)
        return added_XCNP @ states_XSNP[:, :-1].mT, added_XCNP, state_XNP
