"""What torchrun starts in a test: steps with products in float8 under three stages of ZeRO, and their losses."""

import sys

import torch

from sisa_scale.data.read.stream import Batch
from sisa_scale.models.decoder import Decoder
from sisa_scale.planning.twins import load_recipe
from sisa_scale.training.engine import engine as module
from sisa_scale.training.engine.communicator import connect, leave

vars(module)["compile_settings"] = lambda _execution: {"backend": "aot_eager"}
workers = connect("cpu")
stages: list[str] = []
for stage in (0, 1, 3):
    torch.compiler.reset()
    config = load_recipe("quickstart", (*sys.argv[1:], f"zero_stage={stage}")).config
    model = Decoder(config.model, config.execution, "flash_padded")
    model.initialise(0)
    engine = module.Engine(model, config, workers)
    assert engine.float8 is not None
    assert len(engine.float8.taken) == 4 * config.model.num_layers
    generator = torch.Generator().manual_seed(workers.rank)
    losses: list[float] = []
    for _ in range(4):
        tokens = torch.randint(0, 20, (2, config.data.sequence_tokens), generator=generator)
        batch = Batch(tokens_BL=tokens, targets_BL=tokens, document_BL=None, digest=0)
        losses.append(sum(engine.step(batch, 1e-3, lambda _loss, _norm: True).micro_losses) / 2)
    engine.score(tokens, tokens)
    stages.append(" ".join(map(str, losses)))
sys.stdout.write(f"FOUND {'|'.join(stages)}\n")  # whole: the other rank writes, too
leave()
