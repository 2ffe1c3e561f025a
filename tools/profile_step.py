"""Where the time of a training step goes: kernels by kind, and DeepSpeed's share against a bare step of the same model.

    python tools/profile_step.py transformer/152m sisa/152m-ds16 --data DATA

For every recipe: seconds of an optimizer step in the product's engine and in plain PyTorch (autocast, clipping, fused
AdamW), peak memory of both, and the GPU time of the engine's step by kind of kernel. `--trace DIR` keeps the traces.
On a CPU (`--device cpu`) there are no kernels to tell apart and no peak memory.
"""

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from sisa_scale.config.run import RunConfig
from sisa_scale.data.read.stream import Batch, TokenStream
from sisa_scale.models.decoder import Decoder
from sisa_scale.planning.flops import flops_per_token
from sisa_scale.planning.mfu import peak_flops, utilisation
from sisa_scale.planning.twins import load_recipe
from sisa_scale.training.engine.attention_backend import choose_backend
from sisa_scale.training.engine.communicator import connect
from sisa_scale.training.engine.compile import (
    begin_cuda_graphs,
    compile_blocks,
    compile_settings,
    keep_gradients,
    uses_cuda_graphs,
)
from sisa_scale.training.engine.engine import Engine
from sisa_scale.training.engine.optimizers import build_optimizer
from sisa_scale.training.kernel_table import KernelTable, kernel_table


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(step: Callable[[Batch], Any], batches: list[Batch], warmup: int) -> float:
    """Return the median wall seconds of a step, after `warmup` steps."""
    seconds = []
    for batch in batches:
        started = time.perf_counter()
        step(batch)
        synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[warmup:])


def bare_step(config: RunConfig, model: Decoder, device: torch.device) -> Callable[[Batch], None]:
    """Return an optimizer step in plain PyTorch."""
    has_graphs = uses_cuda_graphs(config.execution)
    if has_graphs:
        keep_gradients(model.blocks)
    optimizer = build_optimizer(model, config.optimizer)
    size = config.execution.micro_batch_sequences

    def step(batch: Batch) -> None:
        tokens, targets = (x.to(device).split(size) for x in (batch.tokens_BL, batch.targets_BL))
        for tokens_BL, targets_BL in zip(tokens, targets, strict=True):
            if has_graphs:
                begin_cuda_graphs()
            with torch.autocast(device.type, torch.bfloat16, enabled=config.execution.precision == "bf16"):
                loss = model(tokens_BL, targets_BL)
            (loss / len(tokens)).backward()
        clip_grad_norm_(model.parameters(), config.optimizer.gradient_clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def profiled(step: Callable[[Batch], Any], batches: list[Batch], trace: Path | None) -> KernelTable:
    """Return GPU milliseconds a step by kind of kernel, and the longest kernels."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for batch in batches:
            step(batch)
        torch.cuda.synchronize()
    if trace is not None:
        profiler.export_chrome_trace(str(trace))
    return kernel_table(profiler, len(batches))


def build(config: RunConfig, backend: str) -> Decoder:
    """Return a fresh model of a recipe."""
    model = Decoder(config.model, config.execution, backend)
    model.initialise(config.seed)
    return model


def measure(recipe: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what a step of one recipe costs."""
    overrides = [f"data.path={arguments.data}", f"run_dir={arguments.scratch}/{recipe.replace('/', '-')}"]
    config = load_recipe(recipe, [*overrides, "wandb.mode=disabled", *arguments.overrides]).config
    workers = connect(arguments.device)
    on_gpu = workers.device.type == "cuda"
    stream = TokenStream(config.data)
    batches = [stream.batch(step, 0, 1) for step in range(arguments.steps)]
    backend = choose_backend(config, workers)
    row: dict[str, Any] = {"recipe": recipe, "attention": backend}
    engine = Engine(build(config, backend), config, workers)
    for name in ("engine", "bare"):
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        if name == "engine":
            step: Callable[[Batch], Any] = lambda batch: engine.step(batch, 1e-4, lambda _loss, _norm: True)  # noqa: E731
        else:
            model = build(config, backend).to(workers.device)
            if config.execution.compile:
                compile_blocks(model.blocks, **compile_settings(config.execution))
            step = bare_step(config, model, workers.device)
        started = time.perf_counter()
        step(batches[0])
        synchronize()
        first = time.perf_counter() - started
        seconds = seconds_of(step, batches, arguments.steps // 4)
        rate = config.data.batches.tokens(0) / seconds
        flops = flops_per_token(config.model, config.data.sequence_tokens).train
        mfu = utilisation(rate, flops, peak_flops(torch.cuda.get_device_name()), 1) if on_gpu else None
        row[name] = {
            "tokens/s": round(rate),
            "MFU %": round(100 * mfu, 1) if mfu else None,
            "step ms": round(1e3 * seconds, 1),
            "peak GB": round(torch.cuda.max_memory_allocated() / 1e9, 1) if on_gpu else None,
            "first step s": round(first, 1),
        }
        if name == "engine" and on_gpu and not arguments.no_profile:
            trace = arguments.trace / f"{recipe.replace('/', '-')}.json" if arguments.trace else None
            row["kernels"] = profiled(step, batches[:2], trace)
        print(json.dumps({k: v for k, v in row.items() if k != "kernels"}), flush=True)
        if name == "engine":
            engine.engine.destroy()
            del engine, step
            gc.collect()
            torch.cuda.empty_cache()
    return row


def main() -> None:
    """Measure every recipe; print one JSON object each, then the kernels."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="a built data set")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="KEY=VALUE for every recipe")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/profile-runs"))
    parser.add_argument("--trace", type=Path, help="directory for Chrome traces")
    parser.add_argument("--no-profile", action="store_true")
    arguments = parser.parse_args()
    for key, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(key, value)
    os.environ.setdefault("MASTER_PORT", "29513")
    for recipe in arguments.recipes:
        torch.compiler.reset()
        row = measure(recipe, arguments)
        if "kernels" in row:
            print(recipe, *row["kernels"].lines(), sep="\n")


if __name__ == "__main__":
    main()
