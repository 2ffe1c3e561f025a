"""Small models of every kind as checkpoints, without training."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from zoo import decoder, tiny

from sisa_scale.checkpoint.manifest import WEIGHT
from sisa_scale.checkpoint.store import find_checkpoint
from sisa_scale.config.loading.load import config_from_plain
from sisa_scale.config.optimizers.adamw import ADAMW
from sisa_scale.config.run import to_plain
from sisa_scale.conversion.forms.native import write_native
from sisa_scale.conversion.weights import Description
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.kernels.sdpa import portable_backend
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.training.record import record

SHARD_BYTES = 100_000


def run_config(model: Any, data: str = "data") -> dict[str, Any]:
    """Return the plain config of a run of this model in fp32."""
    plain = {
        "name": "small",
        "model": to_plain(model),
        "data": {"path": data, "sequence_tokens": 64, "global_batch_tokens": 128},
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"kind": "wsd", "total": "4 steps", "warmup": "1 steps", "decay": "1 steps"},
        "execution": {"micro_batch_sequences": 1, "precision": "fp32"},
        "evaluation": {"needle_lengths": []},
    }
    return dict(to_plain(config_from_plain(plain, "test")))


class MemoryWeights:
    """A model in memory, with states of AdamW that differ from its weights."""

    def __init__(self, model: Decoder, *, optimizer: bool = False, data: str = "data", step: int = 3) -> None:
        self.tensors = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.shapes = {name: tuple(p.shape) for name, p in self.tensors.items()}
        self.description = Description(run_config(model.config, data), step, step * 128, "f" * 64, "memory")
        self.optimizer_states = ADAMW.stored_states(self.shapes) if optimizer else {}

    def read(self, name: str, kind: str = WEIGHT) -> Tensor:
        return self.tensors[name] * {WEIGHT: 1.0, "exp_avg": 2.0, "exp_avg_sq": 3.0}[kind]


def stirred(model: Decoder) -> Decoder:
    """Make every weight matter, with logits that are far apart, and take the attention kernel of evaluation."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
            if name.startswith("blocks.") and parameter.dim() == 2:
                parameter.mul_(5)
        model.embedding.weight.mul_(4)
    backend = portable_backend("cpu", "fp32", is_augmented=model.config.sisa is not None)
    for module in model.modules():
        if hasattr(module, "backend"):
            module.backend = backend
    return model.eval()


def small(name: str, **settings: Any) -> Decoder:
    """Return a small model of a kind of `zoo`, with other settings of the model section."""
    return stirred(decoder(replace(tiny(name), **settings)))


def native(directory: Path, model: nn.Module, **settings: Any) -> Path:
    """Write a checkpoint of the model."""
    assert isinstance(model, Decoder)
    directory.mkdir(parents=True)
    write_native(directory, MemoryWeights(model, **settings), SHARD_BYTES, lambda num_bytes: None)
    return directory


def recorded(run_dir: Path, target: Path) -> Path:
    """Copy a run of bare workers with what the command writes beside it: config and provenance."""
    shutil.copytree(run_dir, target)
    _, manifest = find_checkpoint(target)
    record(RunDirectory(target), config_from_plain(manifest.config, "test"), manifest.data_fingerprint)
    return target
