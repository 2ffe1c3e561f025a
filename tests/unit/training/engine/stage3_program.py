"""What torchrun starts in a test: two steps of a model of equal blocks under ZeRO 3, and how often it was compiled."""

import sys

import torch
from torch._dynamo.testing import CompileCounter

from sisa_scale.data.read.stream import Batch
from sisa_scale.models.decoder import Decoder
from sisa_scale.planning.twins import load_recipe
from sisa_scale.training.engine import engine as module
from sisa_scale.training.engine.communicator import connect, leave

config = load_recipe("quickstart", tuple(sys.argv[1:])).config
counter = CompileCounter()
vars(module)["compile_settings"] = lambda _execution: {"backend": counter}
workers = connect("cpu")
model = Decoder(config.model, config.execution, "flash_padded")
model.initialise(0)
engine = module.Engine(model, config, workers)
generator = torch.Generator().manual_seed(workers.rank)
for _ in range(2):
    tokens = torch.randint(0, 20, (2, config.data.sequence_tokens), generator=generator)
    batch = Batch(tokens_BL=tokens, targets_BL=tokens, document_BL=None, digest=0)
    engine.step(batch, 1e-3, lambda _loss, _norm: True)
print(f"FOUND {counter.frame_count} graphs")
leave()
