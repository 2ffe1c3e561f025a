"""Which SDPA kernel serves a model on a device: measured on GPUs, known on CPUs."""

import json
from pathlib import Path

import torch

from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError
from sisa_scale.files import write_json
from sisa_scale.models.sdpa import attend, portable_backend
from sisa_scale.training.communicator import Communicator

_REPEATS = 5
RECORD_NAME = "attention_backend.json"


def choose_backend(config: RunConfig, workers: Communicator) -> str:
    """Return the SDPA backend of a run, the same on every worker and after every resume on the same device.

    Raises ConfigError when no kernel supports the shapes.
    """
    wanted = config.execution.attention_backend
    if wanted != "auto":
        return wanted
    # A document mask goes to the kernel that takes one: there is nothing to measure. Times are never twice the same.
    is_strict = config.execution.determinism == "strict"
    if workers.device.type == "cpu" or config.data.documents == "separate" or is_strict:
        return portable_backend(
            workers.device.type, config.execution.precision, is_augmented=config.model.sisa is not None
        )
    choice = _recorded_or_measured(config, workers.device) if workers.is_main else None
    return str(workers.broadcast(choice))


def measure_backends(config: RunConfig, device: torch.device) -> dict[str, float]:
    """Return the milliseconds of one forward and backward pass of every kernel that supports this run's shapes."""
    model = config.model
    names = ["flash", "cudnn", "efficient"]
    if model.sisa is not None:
        names += ["flash_padded", "cudnn_padded"]
    timings = {}
    for name in names:
        try:
            timings[name] = _milliseconds(config, name, device)
        except RuntimeError:
            continue  # this kernel does not take the shapes or the dtype
    return timings


def _recorded_or_measured(config: RunConfig, device: torch.device) -> str:
    path = Path(config.directory) / RECORD_NAME
    name = torch.cuda.get_device_name(device)
    if path.exists() and (record := json.loads(path.read_text()))["device"] == name:
        return str(record["backend"])
    timings = measure_backends(config, device)
    if not timings:
        raise ConfigError.at(
            "execution.attention_backend",
            found=f"no fast SDPA kernel on {name} for these head widths",
            allowed="one of flash, cudnn, efficient must take them",
            remedy="Use head widths that are multiples of 8 and at most 256 with d_s, or set the backend to math.",
        )
    backend = min(timings, key=lambda kernel: timings[kernel])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"device": name, "backend": backend, "milliseconds": timings})
    return backend


def _milliseconds(config: RunConfig, backend: str, device: torch.device) -> float:
    model = config.model
    batch, length, heads = config.execution.micro_batch_sequences, config.data.sequence_tokens, model.num_heads
    extra = max(model.sisa.extra_channels(layer) for layer in range(model.num_layers)) if model.sisa else 0
    augmented = model.head_width + extra
    dtype = torch.bfloat16 if config.execution.precision == "bf16" else torch.float32
    q, k, v = (
        torch.randn(batch, length, heads, width, device=device, dtype=dtype, requires_grad=True)
        for width in (augmented, augmented, model.head_width)
    )
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for repeat in range(_REPEATS + 2):
        if repeat == 2:  # two warm-up passes
            start.record()
        out = attend(q, k, v, scale=model.head_width**-0.5, backend=backend)
        torch.autograd.grad(out.sum(), (q, k, v))
    end.record()
    torch.cuda.synchronize(device)
    return float(start.elapsed_time(end)) / _REPEATS
