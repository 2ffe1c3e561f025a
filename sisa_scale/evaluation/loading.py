"""A trained model outside its run, computing as the run did."""

import torch
from torch import Tensor

from sisa_scale.config.run import RunConfig
from sisa_scale.evaluation.scoring import Scorer
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.head import TokenScores


def autocast(config: RunConfig, device: torch.device) -> torch.autocast:
    """Return the context in which a run computes: bf16 autocast, or nothing for fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.execution.precision == "bf16")


def model_scorer(model: Decoder, config: RunConfig, device: torch.device) -> Scorer:
    """Return a scorer that computes as the run did (bf16 autocast or fp32)."""

    @torch.no_grad()
    def score(tokens_BL: Tensor, targets_BL: Tensor, document_BL: Tensor | None = None) -> TokenScores:
        documents = {} if document_BL is None else {"document_BL": document_BL.to(device)}
        with autocast(config, device):
            scores: TokenScores = model(tokens_BL.to(device), targets_BL.to(device), per_token=True, **documents)
        return scores

    return score
