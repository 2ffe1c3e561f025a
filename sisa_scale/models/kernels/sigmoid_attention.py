"""Sigmoid attention (Ramapuram et al. 2024, paper 2409.04431), a control for the softmax.

    y_i = sum_j sigmoid(logit_ij + b_i) v_j,    b_i = -log(number of keys that i sees)

The bias is the paper's -log n with n the length so far, so that the weights of a row start with a sum near one.
This leaves the single attention call: products are made explicitly, a chunk of queries at a time.

Shapes: B batch, L queries, M keys, H heads, K channels of queries and keys, J of values.
"""

import torch
from torch import Tensor

from sisa_scale.models.precision import upcast

CHUNK_TOKENS = 256


def attend_sigmoid(
    q_BLHK: Tensor,
    k_BMHK: Tensor,
    v_BMHJ: Tensor,
    *,
    scale: float,
    is_visible_BLM: Tensor | None = None,
    num_seen_BL: Tensor | None = None,
) -> Tensor:
    """Return the weighted values, (B, L, H, J); without a mask, queries are the last L positions and see the past.

    num_seen_BL: how many keys a query sees in all, where these are not all of them.
    """
    ahead = k_BMHK.shape[1] - q_BLHK.shape[1]
    k_BHKM, v_BHMJ = k_BMHK.permute(0, 2, 3, 1), v_BMHJ.transpose(1, 2)
    chunks = []
    for start in range(0, q_BLHK.shape[1], CHUNK_TOKENS):
        q_BHLK = q_BLHK[:, start : start + CHUNK_TOKENS].transpose(1, 2)
        end = start + q_BHLK.shape[2]
        if is_visible_BLM is None:
            square = torch.ones(end - start, ahead + end, dtype=torch.bool, device=q_BLHK.device)
            visible = square.tril(ahead + start)[None]
        else:
            visible = is_visible_BLM[:, start:end]
        keys = visible.shape[-1]
        logits_BHLM = upcast(q_BHLK @ k_BHKM[..., :keys]) * scale
        num_seen = visible.sum(-1) if num_seen_BL is None else num_seen_BL[:, start:end]
        logits_BHLM = logits_BHLM - num_seen.to(logits_BHLM.dtype).log()[:, None, :, None]
        weights_BHLM = logits_BHLM.masked_fill(~visible[:, None], -torch.inf).sigmoid()
        chunks.append((weights_BHLM.to(v_BHMJ.dtype) @ v_BHMJ[:, :, :keys]).transpose(1, 2))
    return torch.cat(chunks, dim=1)
