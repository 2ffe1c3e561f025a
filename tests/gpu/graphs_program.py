"""What torchrun starts in a test: steps without and with CUDA graphs, their losses, how many graphs a step replays."""

import dataclasses
import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from sisa_scale.data.read.stream import Batch
from sisa_scale.models.decoder import Decoder
from sisa_scale.planning.twins import load_recipe
from sisa_scale.training.engine.communicator import connect, leave
from sisa_scale.training.engine.engine import Engine

sys.path.append(str(Path(__file__).parents[1]))
from zoo import tiny

name, *settings = sys.argv[1:]
workers = connect("cuda" if torch.cuda.is_available() else "cpu")
results = []
for is_captured in ("false", "true"):
    torch.compiler.reset()
    config = load_recipe("quickstart", [*settings, "compile=true", f"cuda_graphs={is_captured}"]).config
    config = dataclasses.replace(config, model=tiny(name))
    model = Decoder(config.model, config.execution, "math")
    model.initialise(0)
    engine = Engine(model, config, workers)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(6):
        tokens = torch.randint(0, 20, (4, config.data.sequence_tokens), generator=generator)
        batch = Batch(tokens_BL=tokens, targets_BL=tokens, document_BL=None, digest=0)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            losses += engine.step(batch, 3e-3, lambda _loss, _norm: True).micro_losses
        if step == 3:
            engine.score(tokens, tokens)  # eager, between replays
    replays = sum(event.count for event in profiler.key_averages() if event.key == "cudaGraphLaunch")
    results.append(f"{replays}: {' '.join(map(str, losses))}")
sys.stdout.write(f"FOUND {'|'.join(results)}\n")
leave()
