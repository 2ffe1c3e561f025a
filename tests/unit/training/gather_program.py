"""What torchrun starts in a test: how many weights a step under ZeRO 3 gathers, resharded after forward or kept.

The model is small, so DeepSpeed is told to look ahead no further than a block of it, as it does in a large one.
"""

import sys
from typing import Any

import torch
from deepspeed.runtime.zero import partition_parameters

from sisa_scale.config.run import RunConfig
from sisa_scale.data.read.stream import Batch
from sisa_scale.models.decoder import Decoder
from sisa_scale.planning.twins import load_recipe
from sisa_scale.training.engine import deepspeed_config, engine
from sisa_scale.training.engine.communicator import connect, leave

NUM_STEPS = 3
make_config, gather = engine.deepspeed_config, partition_parameters._dist_allgather_fn
gathered = [0]
deepspeed_config.GATHERED_PARAMS = 1_000_000  # type: ignore[misc]


def with_short_sight(config: RunConfig) -> dict[str, Any]:
    made = make_config(config)
    made["zero_optimization"] |= {"stage3_prefetch_bucket_size": 100_000, "stage3_param_persistence_threshold": 0}
    return made


def counted(own: torch.Tensor, whole: torch.Tensor, group: Any) -> Any:
    gathered[0] += whole.numel()
    return gather(own, whole, group)


vars(engine)["deepspeed_config"] = with_short_sight
partition_parameters._dist_allgather_fn = counted
workers = connect("cpu")
for setting in ("true", "false"):
    config = load_recipe("quickstart", (*sys.argv[1:], f"reshard_after_forward={setting}")).config
    model = Decoder(config.model, config.execution, "flash_padded")
    model.initialise(0)
    trained = engine.Engine(model, config, workers)
    generator = torch.Generator().manual_seed(workers.rank)
    losses: list[float] = []
    for _ in range(NUM_STEPS):
        gathered[0] = 0
        tokens = torch.randint(0, 20, (2, config.data.sequence_tokens), generator=generator)
        batch = Batch(tokens_BL=tokens, targets_BL=tokens, document_BL=None, digest=0)
        losses += trained.step(batch, 1e-3, lambda _loss, _norm: True).micro_losses
    held = sum(parameter.ds_numel for parameter in model.parameters())
    times = gathered[0] / held / config.accumulation_steps
    sys.stdout.write(f"FOUND {workers.rank} {setting} {times:.3f} {losses}\n")  # whole: the other rank writes, too
leave()
