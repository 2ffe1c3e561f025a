"""Prints what an engine's states take: a JSON line for every ZeRO stage and number of micro-steps."""

import gc
import json
import sys
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from sisa_scale.data.read.stream import Batch
from sisa_scale.models.decoder import Decoder
from sisa_scale.planning.twins import load_recipe
from sisa_scale.training.engine.communicator import Communicator, connect, leave
from sisa_scale.training.engine.engine import Engine


def marked(engine: Any, name: str) -> None:
    """Have every call of a method leave a mark."""
    method = getattr(engine, name)

    def call(*arguments: Any, **named: Any) -> Any:
        with record_function(f"@{name}"):
            pass
        return method(*arguments, **named)

    setattr(engine, name, call)


def measure(overrides: list[str], workers: Communicator) -> dict[str, Any]:
    """Return params, and for every moment after a mark: its name, the most bytes in it, and those at its end."""
    config = load_recipe("quickstart", tuple(overrides)).config
    shape = (config.data.global_batch_sequences, config.data.sequence_tokens)
    tokens_BL = torch.randint(0, config.model.vocab_size, shape)
    batch = Batch(tokens_BL=tokens_BL, targets_BL=tokens_BL, document_BL=None, digest=0)
    gc.collect()  # of the engine before: its end would count here
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = Decoder(config.model, config.execution, "flash_padded")
        model.initialise(0)
        engine = Engine(model, config, workers)
        for group in engine.optimizer.param_groups:
            group.update(fused=True, foreach=False)  # as on a GPU
        for name in ("forward", "backward", "step"):
            marked(engine.engine, name)
        for _ in range(2):
            with record_function("@begin"):
                pass
            engine.step(batch, 1e-4, lambda _loss, _norm: True)
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = profiler.profiler.kineto_results.events()
    points = [(e.start_ns(), e.nbytes() if e.name() == "[memory]" else e.name()) for e in events]
    moments: list[list[Any]] = []
    live = 0
    for _, what in sorted(points, key=lambda point: point[0]):
        if isinstance(what, str):
            if what.startswith("@"):
                moments.append([what[1:], live, live])
            continue
        live += what
        if moments:
            moments[-1][1:] = [max(moments[-1][1], live), live]
    second = [number for number, moment in enumerate(moments) if moment[0] == "begin"][1]
    return {
        "params": sum(p.numel() for p in model.parameters()),
        "shapes": engine.shapes,
        "kind": config.optimizer.kind,
        "moments": moments[second:],
    }


if __name__ == "__main__":
    joined = connect("cpu")
    import deepspeed

    # The sum over one worker is the tensor itself. gloo would let go of it in a thread that the profiler does not see.
    deepspeed.comm.all_reduce = lambda *_arguments, **_named: None
    for micro_steps in (1, 2):
        for stage, kind in ((0, "adamw"), (1, "adamw"), (2, "adamw"), (micro_steps - 1, "muon")):
            settings = [*sys.argv[1:], f"zero_stage={stage}", f"global_batch_tokens={16 * micro_steps}"]
            settings.append(f"optimizer.kind={kind}")
            sys.stdout.write(f"FOUND {json.dumps([stage, micro_steps, measure(settings, joined)])}\n")
    leave()
