"""From the residual stream to losses and scores, without holding all logits at once.

Shapes: B batch, L length, D width, V vocabulary, N tokens of a chunk.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from sisa_scale.models.kernels.linear_cross_entropy import IGNORED_TARGET, linear_cross_entropy
from sisa_scale.models.precision import upcast


class TokenScores(NamedTuple):
    """What a model says of every target: its log-probability in nats, and whether it is the most probable token."""

    log_probability_BL: Tensor
    is_greedy_BL: Tensor


class Head(nn.Module):
    """The language-model head; its weight is the token embedding, whose rows beyond the vocabulary get no logit.

    z_loss_weight: see `linear_cross_entropy`.
    """

    def __init__(self, weight_VD: Tensor, vocab_size: int, chunk_tokens: int, z_loss_weight: float = 0.0) -> None:
        super().__init__()
        assert isinstance(weight_VD, nn.Parameter)
        self.weight = weight_VD
        self.vocab_size, self.chunk_tokens, self.z_loss_weight = vocab_size, chunk_tokens, z_loss_weight

    def logits(self, x_ND: Tensor) -> Tensor:
        """Return the logits of every token, fp32 (or wider)."""
        return upcast(linear(x_ND, self.weight)[..., : self.vocab_size])

    def forward(self, x_BLD: Tensor, targets_BL: Tensor, per_token: bool) -> Tensor | TokenScores:
        """Return the mean cross-entropy in nats, or with `per_token` the scores of every target.

        Targets of IGNORED_TARGET do not count: the mean is over the others, 0 if there are none; their scores are 0 and
        False. The logits of one chunk live at a time.
        """
        x_ND, targets_N = x_BLD.flatten(0, 1), targets_BL.flatten()
        if per_token:
            chunks = zip(x_ND.split(self.chunk_tokens), targets_N.split(self.chunk_tokens), strict=True)
            log_probabilities, are_greedy = zip(*(self._scores(*chunk) for chunk in chunks), strict=True)
            shape = targets_BL.shape
            return TokenScores(torch.cat(log_probabilities).view(shape), torch.cat(are_greedy).view(shape))
        loss_sum = linear_cross_entropy(
            x_ND,
            self.weight,
            targets_N,
            vocab_size=self.vocab_size,
            chunk_tokens=self.chunk_tokens,
            z_loss_weight=self.z_loss_weight,
        )
        return loss_sum / (targets_N != IGNORED_TARGET).sum().clamp(min=1)

    def _scores(self, x_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        logits_NV = self.logits(x_ND)
        nats_N = cross_entropy(logits_NV, targets_N, reduction="none", ignore_index=IGNORED_TARGET)
        return -nats_N, logits_NV.argmax(-1) == targets_N
