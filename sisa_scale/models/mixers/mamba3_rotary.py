"""Keys and queries of Mamba-3: with a bias for every head, and turned in part by the phases of the heads.

    turned = R(phase_h) (normed + bias_h)          on the first 2 A channels of N; the others are not turned

Every head has keys and queries of its own by this, and on a GPU most of a scan's time goes into reading and writing
them. So the gradient is written out. With g the gradient of a result and d = R(-phase) g that of what was turned,

    gradient of normed = sum of d over heads, of the bias = over tokens, of the phase = x_1 d_2 - x_2 d_1 of every pair

A pair (x_1, x_2) turns to (x_1, x_2) cos + (-x_2, x_1) sin. What the sine multiplies, the partners of normed and bias,
is small and stored: a kernel that chose between two formulas for every channel would load what either needs.

d is stored once and read three times. Its sums are products with ones, before which torch.compile has to store it;
autograd's own sums each make it anew from the gradients of all products that the keys and queries are in.

Pairs are (c, c + A), as in every rotation here; the published code pairs neighbours, which differs by a permutation of
the channels.

Shapes: B batch, L length, R rows of a token, H heads, N state width, A angles.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sisa_scale.models.kernels.materialize import materialize
from sisa_scale.models.precision import upcast


def turned_heads(
    normed_BLRN: tuple[Tensor, Tensor], bias_RHN: tuple[Tensor, Tensor], phase_BLHA: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return keys and queries of all heads, (B, L, R, H, N) each and of this dtype; heads come first in memory.

    For results in bfloat16, cosines and sines are rounded to float16, which has three bits more.
    """
    turn_dtype = torch.float16 if dtype == torch.bfloat16 else phase_BLHA.dtype
    angle_BHL1A = phase_BLHA.detach().transpose(1, 2)[:, :, :, None].contiguous()
    turns_BHL1A = [materialize(turn_BHL1A.to(turn_dtype)) for turn_BHL1A in (angle_BHL1A.cos(), angle_BHL1A.sin())]
    normed = [materialize(n) for n in normed_BLRN]
    parts = (*normed, *bias_RHN)
    partners = [materialize(_partners(p.detach(), phase_BLHA.shape[-1])) for p in parts]
    keys_BHLRN, queries_BHLRN = _TurnedHeads.apply(  # type: ignore[no-untyped-call]
        *parts, phase_BLHA, *partners, *turns_BHL1A, dtype
    )
    return tuple(t.contiguous().permute(0, 2, 3, 1, 4) for t in (keys_BHLRN, queries_BHLRN))


class _TurnedHeads(torch.autograd.Function):
    """Keys and queries together, as both turn by the same phase and so both add to its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        keys_BLRN: Tensor,
        queries_BLRN: Tensor,
        key_bias_RHN: Tensor,
        query_bias_RHN: Tensor,
        _phase_BLHA: Tensor,
        keys_partner_BLRN: Tensor,
        queries_partner_BLRN: Tensor,
        key_bias_partner_RHN: Tensor,
        query_bias_partner_RHN: Tensor,
        cos_BHL1A: Tensor,
        sin_BHL1A: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(keys_BLRN, queries_BLRN, key_bias_RHN, query_bias_RHN, cos_BHL1A, sin_BHL1A)
        cos, sin = upcast(cos_BHL1A), upcast(sin_BHL1A)
        still = cos.new_zeros(*cos.shape[:-1], keys_BLRN.shape[-1] - 2 * cos.shape[-1])
        cos_BHL1N, sin_BHL1N = torch.cat((cos, cos, still + 1), dim=-1), torch.cat((sin, sin, still), dim=-1)

        def turn(x_BLRN: Tensor, bias_RHN: Tensor, partner_BLRN: Tensor, bias_partner_RHN: Tensor) -> Tensor:
            x_BHLRN, partner_BHLRN = (
                n_BLRN[:, None] + b_RHN.transpose(0, 1)[:, None]
                for n_BLRN, b_RHN in ((x_BLRN, bias_RHN), (partner_BLRN, bias_partner_RHN))
            )
            # A copy: torch 2.11's compiler drops the gradient of a result that `to` hands on as it is.
            return (x_BHLRN * cos_BHL1N + partner_BHLRN * sin_BHL1N).to(dtype, copy=True)

        return (
            turn(keys_BLRN, key_bias_RHN, keys_partner_BLRN, key_bias_partner_RHN),
            turn(queries_BLRN, query_bias_RHN, queries_partner_BLRN, query_bias_partner_RHN),
        )

    @staticmethod
    def backward(ctx: Any, *gradients_BHLRN: Tensor) -> tuple[Tensor | None, ...]:
        *saved, cos_BHL1A, sin_BHL1A = (upcast(t) for t in ctx.saved_tensors)
        num_angles = cos_BHL1A.shape[-1]
        normed_gradients, bias_gradients, phase_gradient = [], [], torch.zeros_like(cos_BHL1A)
        for gradient_BHLRN, normed_BLRN, bias_RHN in zip(gradients_BHLRN, saved[:2], saved[2:], strict=True):
            parts = gradient_BHLRN.tensor_split([num_angles, 2 * num_angles], dim=-1)
            d_BHLRN = _turn(parts, cos_BHL1A, -sin_BHL1A, gradient_BHLRN.dtype)
            normed_gradients.append(_summed(d_BHLRN.flatten(2)).view(normed_BLRN.shape))
            bias_gradients.append(_summed(d_BHLRN.flatten(3)).sum(0).view(-1, *bias_RHN.shape[::2]).transpose(0, 1))
            first, second, _ = _biased(normed_BLRN, bias_RHN, num_angles)
            d_first, d_second, _ = d_BHLRN.tensor_split([num_angles, 2 * num_angles], dim=-1)
            phase_gradient = phase_gradient + first * d_second - second * d_first
        return *normed_gradients, *bias_gradients, phase_gradient.sum(3).transpose(1, 2), *[None] * 7


def _partners(x: Tensor, num_angles: int) -> Tensor:
    """Return what the sine of its pair multiplies for every channel: -x_2, x_1, and 0 where there is no pair."""
    first, second, still = x.tensor_split([num_angles, 2 * num_angles], dim=-1)
    return torch.cat((-second, first, torch.zeros_like(still)), dim=-1)


def _biased(normed_BLRN: Tensor, bias_RHN: Tensor, num_angles: int) -> Sequence[Tensor]:
    """Return normed + bias of all heads, (B, H, L, R, .), in three parts: the halves of the pairs, and the rest."""
    cuts = [num_angles, 2 * num_angles]
    normed = normed_BLRN[:, None].tensor_split(cuts, dim=-1)
    return [n + b for n, b in zip(normed, bias_RHN.transpose(0, 1)[:, None].tensor_split(cuts, dim=-1), strict=True)]


def _turn(parts: Sequence[Tensor], cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """Return heads whose first two parts are turned, the third is not: `rotary.rotate`, joined with it at once."""
    first, second, still = parts
    first, second = upcast(first), upcast(second)
    turned = (first * cos - second * sin, first * sin + second * cos, still)
    return torch.cat([part.to(dtype) for part in turned], dim=-1)


def _summed(x: Tensor) -> Tensor:
    """Return the sum over the dimension before the last, float32 or wider."""
    ones = x.new_ones(*x.shape[:-2], 1, x.shape[-2])  # in full: a batched product copies what is broadcast
    return upcast(ones @ x)[..., 0, :]
