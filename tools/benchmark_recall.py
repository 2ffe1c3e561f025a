"""Teach small models associative recall on one CPU core and print how many key-value pairs each can hold.

    python tools/benchmark_recall.py --models transformer sisa mamba2 --pairs 4 8 16 32

Multi-query associative recall (MQAR; Arora et al. 2023, "Zoology", 2312.04927): a sequence lists key-value pairs, then
asks for every key once, in another order; the value is scored where the key is asked. Keys and values are drawn
anew for every sequence, so nothing can be learned but the act of recall. One training serves every number of pairs:
each batch draws its own. Training ends early when every number of pairs is recalled.

Shapes: B batch, L = 3 n length, n pairs.
"""

import argparse
import dataclasses
import itertools
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sisa_scale.cli.common.console import render
from sisa_scale.config.execution import ExecutionConfig
from sisa_scale.config.mixers.hymba import HymbaConfig
from sisa_scale.config.mixers.jamba import JambaConfig
from sisa_scale.config.mixers.mamba import Mamba2Config, Mamba3Config, SsmConfig
from sisa_scale.config.mixers.sisa import SisaConfig
from sisa_scale.config.model import ModelConfig
from sisa_scale.config.optimizer import OptimizerConfig
from sisa_scale.models.cache import KeyValueCache
from sisa_scale.models.decoder import Decoder
from sisa_scale.training.engine.optimizers import build_optimizer, set_learning_rate

NUM_KEYS = NUM_VALUES = 64
D_MODEL, NUM_LAYERS = 64, 2
BATCH_TOKENS = 2048
CHECK_STEPS, SOLVED = 100, 0.99

_MAMBA2 = Mamba2Config(head_width=64, chunk_tokens=32)
_MAMBA3 = Mamba3Config(head_width=64, chunk_tokens=32)
_SISA, _NORMALIZED = SisaConfig(d_s=16), SisaConfig(d_s=16, normalize_importance=True)
_LAST = {"attention_every": NUM_LAYERS, "attention_offset": NUM_LAYERS - 1}
MODELS: dict[str, dict[str, Any]] = {
    "transformer": {"kind": "transformer"},
    "transformer-normalized": {"kind": "transformer", "qk_norm": True},
    "sisa": {"kind": "sisa", "sisa": _SISA},
    "sisa-normalized": {"kind": "sisa", "qk_norm": True, "sisa": _NORMALIZED},
    "mamba2": {"kind": "mamba2", "mamba2": _MAMBA2},
    "mamba3": {"kind": "mamba3", "mamba3": _MAMBA3},
    "jamba": {"kind": "jamba", "mamba2": _MAMBA2, "jamba": JambaConfig(**_LAST), "position": "none"},
    "jamba-sisa": {
        "kind": "jamba", "mamba2": _MAMBA2, "sisa": _SISA, "position": "none",
        "jamba": JambaConfig(**_LAST, attention="sisa"),
    },
    "hymba": {"kind": "hymba", "hymba": HymbaConfig(chunk_tokens=32)},
    "hymba-sisa": {"kind": "hymba", "sisa": _SISA, "hymba": HymbaConfig(chunk_tokens=32, attention="sisa")},
}  # fmt: skip


def build(name: str, max_pairs: int, state_width: int, init_std: float, seed: int) -> Decoder:
    """Return an initialised model of two layers that reads up to `max_pairs` pairs."""
    settings = {
        key: dataclasses.replace(value, state_width=state_width) if isinstance(value, SsmConfig) else value
        for key, value in MODELS[name].items()
    }
    config = ModelConfig(
        num_layers=NUM_LAYERS,
        d_model=D_MODEL,
        num_heads=2,
        d_ff=2 * D_MODEL,
        vocab_size=NUM_KEYS + NUM_VALUES,
        max_length_tokens=3 * max_pairs,
        init_std=init_std,
        **settings,
    )
    model = Decoder(config, ExecutionConfig(micro_batch_sequences=1, precision="fp32"), "math")
    model.initialise(seed)
    return model


def recall_batch(num_sequences: int, num_pairs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return tokens_BL, n pairs [key, value] and then the n keys in another order, and the values to recall, (B, n).

    Values are ids from NUM_KEYS on. Answers are not shown after their keys: the last would be told by elimination.
    """
    keys_Bn = torch.rand(num_sequences, NUM_KEYS, generator=generator).argsort(1)[:, :num_pairs]
    values_Bn = NUM_KEYS + torch.randint(NUM_VALUES, keys_Bn.shape, generator=generator)
    order_Bn = torch.rand(keys_Bn.shape, generator=generator).argsort(1)
    pairs_BL = torch.stack((keys_Bn, values_Bn), dim=-1).flatten(1)
    return torch.cat((pairs_BL, keys_Bn.gather(1, order_Bn)), dim=1), values_Bn.gather(1, order_Bn)


def answers(model: Decoder, tokens_BL: Tensor) -> Tensor:
    """Return the logits (B, n, V) where keys are asked."""
    return model.head.logits(model.hidden(tokens_BL)[:, tokens_BL.shape[1] * 2 // 3 :])


@torch.no_grad()
def accuracies(model: Decoder, pairs: list[int], seed: int) -> dict[int, float]:
    """Return the share of values recalled on sequences of their own, per number of pairs."""
    generator, found = torch.Generator().manual_seed(seed + 1_000_003), {}
    for num_pairs in pairs:
        tokens_BL, values_Bn = recall_batch(max(1, 2048 // num_pairs), num_pairs, generator)
        found[num_pairs] = (answers(model, tokens_BL).argmax(-1) == values_Bn).float().mean().item()
    return found


def train(
    model: Decoder, pairs: list[int], steps: int, learning_rate: float, seed: int
) -> tuple[int, dict[int, float]]:
    """Train until every number of pairs is recalled, or for `steps`; return the steps taken and the accuracies."""
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=learning_rate))
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, float] = {}
    for step in range(1, steps + 1):
        rate = learning_rate * min(1.0, step / 50, 2 * (1 - step / (steps + 1)))
        set_learning_rate(optimizer, rate)
        num_pairs = pairs[int(torch.randint(len(pairs), (), generator=generator))]
        tokens_BL, values_Bn = recall_batch(BATCH_TOKENS // (3 * num_pairs), num_pairs, generator)
        cross_entropy(answers(model, tokens_BL).flatten(0, 1), values_Bn.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % CHECK_STEPS == 0 or step == steps:
            found = accuracies(model, pairs, seed)
            print(f"step {step} {[round(f, 3) for f in found.values()]}", file=sys.stderr, flush=True)
            if min(found.values()) >= SOLVED:
                break
    return step, found


def state_floats(model: Decoder, num_tokens: int) -> int:
    """Return how many numbers a layer keeps of one sequence of this length when it decodes, the mean over layers."""
    cache = model.new_cache(1)
    model.extend(torch.zeros(1, num_tokens, dtype=torch.int64), cache)
    return sum(map(_floats, cache.mixers)) // len(cache.mixers)


def _floats(cache: Any) -> int:
    if isinstance(cache, Tensor):
        return cache.numel() if cache.is_floating_point() else 0
    if isinstance(cache, KeyValueCache):  # its buffers are larger than what they hold
        held = [t[:, : cache.length] if t.dim() == 4 else t for t in vars(cache).values() if isinstance(t, Tensor)]
        return sum(map(_floats, held))
    return sum(_floats(getattr(cache, field.name)) for field in dataclasses.fields(cache))


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one model at every setting in turn and return the row of the first that solves the task, or of the best."""
    rows = []
    for init_std, learning_rate in itertools.product(arguments.init_stds, arguments.learning_rates):
        model = build(name, max(arguments.pairs), arguments.state_width, init_std, arguments.seed)
        start = time.process_time()
        steps, found = train(model, arguments.pairs, arguments.steps, learning_rate, arguments.seed)
        seconds = time.process_time() - start
        rows.append(
            {
                "model": name,
                "parameters": sum(p.numel() for p in model.parameters()),
                "state floats": state_floats(model, 3 * max(arguments.pairs)),
                **{f"{pairs} pairs %": round(100 * share, 1) for pairs, share in found.items()},
                "steps": steps,
                "CPU s": round(seconds),
                "init std": init_std,
                "learning rate": learning_rate,
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
        if min(found.values()) >= SOLVED:
            break
    accuracy = [key for key in rows[0] if key.endswith("%")]
    return max(rows, key=lambda row: (sum(row[key] for key in accuracy), -row["steps"]))


def main() -> None:
    """Parse, train every model, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--pairs", nargs="+", type=int, default=[4, 8, 16, 32], help=f"at most {NUM_KEYS}")
    parser.add_argument("--steps", type=int, default=2000, help="most optimizer steps of a training")
    parser.add_argument("--init-stds", nargs="+", type=float, default=[0.125, 0.02], help="tried in turn, with each of")
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[3e-3, 1e-2], help="until one solves it")
    parser.add_argument("--state-width", type=int, default=8, help="channels N of the state-space mixers' states")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if not all(1 <= pairs <= NUM_KEYS for pairs in arguments.pairs):
        parser.error(f"--pairs {arguments.pairs}: a sequence has 1 to {NUM_KEYS} pairs, as keys do not repeat")
    torch.set_num_threads(1)
    rows = [measure(name, arguments) for name in arguments.models]
    render(rows, as_json=arguments.json, title="Multi-query associative recall")


if __name__ == "__main__":
    main()
