"""Measure decoding with a cache: tokens per second at a context length, and what a token of context keeps in memory.

    python tools/benchmark_decoding.py transformer/152m sisa/152m-ds16 mamba3/152m-mlp --device cuda
    python tools/benchmark_decoding.py sisa/1.3b transformer/1.3b mamba3/1.3b-mlp --contexts 2048 8192 --batch 8

The weights are those of initialisation: speed does not depend on them. A context of random tokens is read in pieces of
2048 (its seconds are `read s`), then greedy tokens follow, as in `sisa-scale generate`: bf16 autocast, no compilation.
Contexts end 128 tokens short of the named length, so that no buffer grows while the clock runs. cache KB per token: the
bytes of all that a cache holds, over its capacity in tokens; for a state of fixed size it falls with the context.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sisa_scale.cli.common.console import render
from sisa_scale.models.decoder import Decoder, DecoderCache
from sisa_scale.planning.twins import load_recipe

PIECE_TOKENS, SPARE_TOKENS = 2048, 128


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors that a cache holds."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif hasattr(value, "__dict__") or hasattr(value, "__slots__"):
        names = [*getattr(value, "__dict__", {}), *getattr(value, "__slots__", ())]
        yield from tensors([getattr(value, name) for name in names])


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def read(model: Decoder, tokens_BL: Tensor) -> tuple[DecoderCache, Tensor]:
    """Return the cache that holds these tokens, and the next tokens (B)."""
    cache = model.new_cache(tokens_BL.shape[0])
    for piece in tokens_BL.split(PIECE_TOKENS, dim=1):
        logits_BV = model.extend(piece, cache)
    return cache, logits_BV.argmax(-1)


@torch.no_grad()
def measure(model: Decoder, context: int, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return the row of one context length."""
    shape = (arguments.batch, context - SPARE_TOKENS)
    tokens_BL = torch.randint(0, model.config.vocab_size, shape, device=device)
    started = time.perf_counter()
    cache, next_B = read(model, tokens_BL)
    synchronise(device)
    reading = time.perf_counter() - started
    for step in range(arguments.tokens + 8):
        if step == 8:  # the first are for warming up
            synchronise(device)
            started = time.perf_counter()
        next_B = model.extend(next_B[:, None], cache).argmax(-1)
    synchronise(device)
    seconds = time.perf_counter() - started
    held = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(cache.mixers)}.values())
    return {
        "context": context,
        "batch": arguments.batch,
        "tokens/s": round(arguments.batch * arguments.tokens / seconds, 1),
        "ms per step": round(1e3 * seconds / arguments.tokens, 2),
        "cache KB per token": round(held / arguments.batch / context / 1e3, 2),
        "read s": round(reading, 2),
    }


def main() -> None:
    """Parse, measure every recipe at every context, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--contexts", nargs="+", type=int, default=[512, 2048, 8192], help="powers of two from 256 on")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64, help="tokens that are timed, at most 100")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if arguments.tokens > 100 or any(n < 256 or n & (n - 1) for n in arguments.contexts):
        parser.error("--tokens is at most 100, and contexts are powers of two from 256 on")
    device, rows = torch.device(arguments.device), list[dict[str, Any]]()
    for recipe in arguments.recipes:
        longest = max(*arguments.contexts, load_recipe(recipe, ["workers=1"]).config.model.max_length_tokens)
        config = load_recipe(recipe, [f"model.max_length_tokens={longest}", "workers=1"]).config
        model = Decoder(config.model, config.execution, "math")
        model.initialise(0)
        model.to(device).eval()
        with torch.autocast(device.type, torch.bfloat16):
            for context in arguments.contexts:
                row = {"recipe": recipe, **measure(model, context, arguments, device)}
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
        del model
    render(rows, as_json=arguments.json)


if __name__ == "__main__":
    main()
