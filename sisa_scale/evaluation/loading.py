"""A trained model outside its run: weights from a checkpoint, on one device, without DeepSpeed."""

import torch
from torch import Tensor

from sisa_scale.checkpoint.manifest import Manifest
from sisa_scale.checkpoint.slices import CheckpointReader
from sisa_scale.checkpoint.store import Location
from sisa_scale.checkpoint.verifying import verified
from sisa_scale.config.run import RunConfig
from sisa_scale.evaluation.scoring import Scorer
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.head import TokenScores
from sisa_scale.models.kernels.sdpa import portable_backend


def load_model(checkpoint: Location, manifest: Manifest, config: RunConfig, device: torch.device) -> Decoder:
    """Verify a checkpoint and return its model in evaluation mode, weights in fp32.

    Raises CheckpointError when the checkpoint is damaged.
    """
    directory = verified(checkpoint, manifest)
    is_augmented = config.model.sisa is not None
    backend = portable_backend(device.type, config.execution.precision, is_augmented=is_augmented)
    model = Decoder(config.model, config.execution, backend)
    CheckpointReader(directory, manifest).load_weights(model.named_parameters())
    return model.to(device).eval()


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
