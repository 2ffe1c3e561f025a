"""What torchrun starts in the tests: DeepSpeed's own loader on a universal checkpoint, under every ZeRO stage with one.

Arguments: a run directory with the state that must come out, and the universal checkpoint. DeepSpeed loads it into an
engine whose weights are other ones, and writes it nowhere: its partitions are compared with the checkpoint of the run.
"""

import dataclasses
import sys

import torch

from sisa_scale.checkpoint.slices import CheckpointReader
from sisa_scale.checkpoint.store import find_checkpoint
from sisa_scale.checkpoint.verifying import verified
from sisa_scale.config.loading.load import config_from_plain
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.kernels.sdpa import portable_backend
from sisa_scale.training.engine import engine as engines
from sisa_scale.training.engine.communicator import connect, leave
from sisa_scale.training.engine.deepspeed_config import deepspeed_config
from sisa_scale.training.engine.zero_layout import local_slices

run_dir, universal = sys.argv[1:]
workers = connect("cpu")
found, manifest = find_checkpoint(run_dir)
reader = CheckpointReader(verified(found, manifest), manifest)
plain = config_from_plain(manifest.config, "test")
engines.deepspeed_config = lambda config: {**deepspeed_config(config), "checkpoint": {"load_universal": True}}

for stage in (1, 2, 3):
    execution = dataclasses.replace(plain.execution, zero_stage=stage)
    resources = dataclasses.replace(plain.resources, workers=workers.world_size)
    config = dataclasses.replace(plain, execution=execution, resources=resources)
    torch.manual_seed(stage)
    model = Decoder(config.model, execution, portable_backend("cpu", execution.precision, is_augmented=True))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    engine = engines.Engine(model, config, workers)
    decays = [group["weight_decay"] for group in engine.optimizer.param_groups]
    path, _ = engine.engine.load_checkpoint(universal)
    assert path is not None
    assert engine.engine.global_steps == manifest.step
    compared = set()
    for piece in local_slices(engine):
        wanted = reader.read(piece.kind, piece.name, piece.start, piece.values.numel())
        assert torch.equal(piece.values.view(-1), wanted.view(-1)), (stage, piece.kind, piece.name)
        compared.add((piece.kind, piece.name))
    steps = {float(state["step"]) for state in engine.optimizer.state.values() if "step" in state}
    assert steps == {float(manifest.step)}, steps
    assert [group["weight_decay"] for group in engine.optimizer.param_groups] == decays
    print(f"stage {stage} rank {workers.rank}: {len(compared)} tensors are equal", flush=True)
leave()
