"""Which attention kernel serves a model on a device: measured on GPUs, known on CPUs."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

from sisa_scale.compat.torch import spin_gpu
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError
from sisa_scale.models.kernels import flash4
from sisa_scale.models.kernels.sdpa import attend, portable_backend
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.training.engine.communicator import Communicator

_WARM_UPS, _REPEATS = 2, 10
_HEAD_START = 200_000_000  # cycles of a GPU, 0.1 s
_TOLERANCE = 2e-2  # relative error of bf16 gradients against another kernel's


def choose_backend(config: RunConfig, workers: Communicator) -> str:
    """Return the SDPA backend of a run, the same on every worker and after every resume on the same device.

    Raises ConfigError when no kernel supports the shapes.
    """
    wanted = config.execution.attention_backend
    if wanted == "flash_4" and not flash4.is_available(workers.device):
        raise ConfigError.at(
            "execution.attention_backend",
            found=f"flash_4 on {workers.device}",
            allowed="flash_4 needs the package flash-attn-4 and a Hopper or Blackwell GPU; auto needs nothing",
            remedy="Write auto, or run `pip install 'sisa-scale[flash4]'` on such a machine.",
        )
    if wanted != "auto":
        return wanted
    # A document mask goes to the kernel that takes one: there is nothing to measure. Times are never twice the same.
    is_strict = config.execution.determinism == "strict"
    has_choice = config.data.documents != "separate" and any(spec.uses_sdpa for spec in config.model.specs)
    if workers.device.type == "cpu" or is_strict or not has_choice:
        return portable_backend(
            workers.device.type, config.execution.precision, is_augmented=config.model.sisa is not None
        )
    choice = _recorded_or_measured(config, workers.device) if workers.is_main else None
    return str(workers.broadcast(choice))


def measure_backends(config: RunConfig, device: torch.device) -> dict[str, float]:
    """Return the milliseconds of one forward and backward pass of every kernel that supports this run's shapes.

    flash_4, whose package is young, must also give the gradients of the first that does.
    """
    names = ["flash", "cudnn", "efficient"]
    if config.model.sisa is not None:
        names += ["flash_padded", "cudnn_padded"]
    is_unfit = any("flash_4" in spec.unfit_backends for spec in config.model.specs)
    if flash4.is_available(device) and not is_unfit:
        names.append("flash_4")
    qkv = _random_heads(config, device)
    timings: dict[str, float] = {}
    for name in names:
        try:
            if name != "flash_4" or not timings or _agree(name, next(iter(timings)), config, qkv):
                timings[name] = gpu_milliseconds(partial(_gradients, name, config, _as_made(name, qkv)))
        except RuntimeError:
            continue  # this kernel does not take the shapes or the dtype
    return timings


def gpu_milliseconds(run: Callable[[], object]) -> float:
    """Return the median time of a pass on the GPU, in milliseconds.

    In training the CPU runs ahead of the GPU: how long it takes to start a kernel must not decide. So it gets a head
    start here, while the GPU spins.
    """
    for _ in range(_WARM_UPS):
        run()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(_REPEATS + 1)]
    spin_gpu(_HEAD_START)
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    marks[-1].synchronize()
    return median(before.elapsed_time(after) for before, after in pairwise(marks))


def _recorded_or_measured(config: RunConfig, device: torch.device) -> str:
    directory, name = RunDirectory(config.directory), torch.cuda.get_device_name(device)
    recorded = directory.attention_backend(name)
    if recorded is not None:
        return recorded
    timings = measure_backends(config, device)
    if not timings:
        raise ConfigError.at(
            "execution.attention_backend",
            found=f"no fast SDPA kernel on {name} for these head widths",
            allowed="one of flash, cudnn, efficient must take them",
            remedy="Use head widths that are multiples of 8 and at most 256 with d_s, or set the backend to math.",
        )
    backend = min(timings, key=lambda kernel: timings[kernel])
    directory.record_attention_backend(name, backend, timings)
    return backend


def _random_heads(config: RunConfig, device: torch.device) -> list[Tensor]:
    """Return queries, keys and values of a micro-batch, from N(0, 1)."""
    model = config.model
    batch, length = config.execution.micro_batch_sequences, config.data.sequence_tokens
    heads = model.num_heads // config.execution.sequence_parallel_size
    extra = max(model.sisa.extra_channels(layer) for layer in range(model.num_layers)) if model.sisa else 0
    dtype = torch.bfloat16 if config.execution.precision == "bf16" else torch.float32
    return [
        torch.randn(batch, length, heads, width, device=device, dtype=dtype, requires_grad=True)
        for width in (model.head_width + extra, model.head_width + extra, model.head_width)
    ]


def _as_made(backend: str, qkv: list[Tensor]) -> list[Tensor]:
    """Return heads as the model makes them for a kernel: for flash_4 with the zeros that it needs."""
    return [flash4.filled(x).detach().requires_grad_() for x in qkv] if backend == "flash_4" else qkv


def _gradients(backend: str, config: RunConfig, qkv: list[Tensor]) -> tuple[Tensor, ...]:
    out = attend(*qkv, scale=config.model.head_width**-0.5, backend=backend)
    return torch.autograd.grad(out.float().square().sum(), qkv)


def _agree(backend: str, other: str, config: RunConfig, qkv: list[Tensor]) -> bool:
    found, expected = (_gradients(name, config, qkv) for name in (backend, other))
    return all(bool((x - y).norm() <= _TOLERANCE * y.norm()) for x, y in zip(found, expected, strict=True))
