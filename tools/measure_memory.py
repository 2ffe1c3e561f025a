"""Predicted against measured peak memory of training, for a list of configurations.

    python tools/measure_memory.py --data DATA --out memory.json
    python tools/measure_memory.py --data DATA --workers 2 --only zero     those whose name has "zero" in it
    python tools/measure_memory.py --data DATA --device cpu --tiny         tries the tool itself where there is no GPU

Every configuration runs by itself through the product's own worker, under torchrun, for some steps; evaluations and
checkpoints are off. Prints a line as each ends, and writes all of them as JSON after each. Configurations that need
more GPUs than --workers, or more memory than the GPU has, are named and left out.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark_step import Conditions, measure

from sisa_scale.cli.common.console import render
from sisa_scale.config.run import RunConfig
from sisa_scale.planning.memory.estimate import plan_memory
from sisa_scale.planning.twins import load_recipe


@dataclass(frozen=True, slots=True)
class Case:
    """A recipe with its overrides, and the GPUs that it needs."""

    name: str
    recipe: str
    overrides: tuple[str, ...]
    workers: int = 1


SMALL = ("global_batch_tokens=131072",)
LARGE = ("global_batch_tokens=65536", "loss_chunk_tokens=8192")
CASES = (
    Case("transformer-152m", "transformer/152m", SMALL),
    Case("sisa-152m", "sisa/152m-ds16", SMALL),
    Case("jamba-152m", "jamba/152m", SMALL),
    Case("mamba2-152m-micro8", "mamba2/152m-mlp", (*SMALL, "micro_batch_sequences=8")),
    Case("mamba3-152m-micro8", "mamba3/152m-mlp", (*SMALL, "micro_batch_sequences=8")),
    Case("hymba-152m-micro8", "hymba/152m", (*SMALL, "micro_batch_sequences=8")),
    Case("sisa-152m-blocks", "sisa/152m-ds16", (*SMALL, "form=query_blocks", "micro_batch_sequences=8")),
    Case("sisa-152m-eager", "sisa/152m-ds16", (*SMALL, "compile=false", "micro_batch_sequences=8")),
    Case("sisa-152m-full", "sisa/152m-ds16", (*SMALL, "activation_checkpointing=full")),
    Case("sisa-152m-selective", "sisa/152m-ds16", (*SMALL, "activation_checkpointing=selective")),
    Case("mamba3-152m-selective", "mamba3/152m-mlp", (*SMALL, "activation_checkpointing=selective")),
    Case("mamba3-152m-every2", "mamba3/152m-mlp", (*SMALL, "activation_checkpointing=2")),
    Case("sisa-152m-zero0", "sisa/152m-ds16", (*SMALL, "zero_stage=0")),
    Case("sisa-152m-zero2", "sisa/152m-ds16", (*SMALL, "zero_stage=2")),
    Case("sisa-369m-micro4", "sisa/369m-ds16", (*SMALL, "micro_batch_sequences=4")),
    Case("sisa-1.3b-full", "sisa/1.3b", (*LARGE, "micro_batch_sequences=4")),
    Case("sisa-1.3b-none", "sisa/1.3b", (*LARGE, "micro_batch_sequences=2", "activation_checkpointing=none")),
    Case("sisa-1.3b-offload", "sisa/1.3b", (*LARGE, "micro_batch_sequences=4", "offload_optimizer=true")),
    Case("sisa-1.3b-zero3", "sisa/1.3b", (*LARGE, "micro_batch_sequences=4", "zero_stage=3")),
    Case("sisa-369m-zero1-x2", "sisa/369m-ds16", (*SMALL, "micro_batch_sequences=8"), 2),
    Case("sisa-369m-zero2-x2", "sisa/369m-ds16", (*SMALL, "micro_batch_sequences=8", "zero_stage=2"), 2),
    Case("sisa-1.3b-zero1-x2", "sisa/1.3b", (*LARGE, "micro_batch_sequences=4"), 2),
    Case("sisa-1.3b-zero2-x2", "sisa/1.3b", (*LARGE, "micro_batch_sequences=4", "zero_stage=2"), 2),
    Case("sisa-1.3b-zero3-x2", "sisa/1.3b", (*LARGE, "micro_batch_sequences=4", "zero_stage=3"), 2),
)
TINY = ("sequence_tokens=128", "global_batch_tokens=512", "micro_batch_sequences=2")
TINY_CASES = (
    Case("quickstart", "quickstart", TINY),
    Case("quickstart-full", "quickstart", (*TINY, "activation_checkpointing=full")),
)


def predicted(case: Case) -> tuple[RunConfig, dict[str, Any]]:
    """Return the run of a case, and what is planned for it."""
    config = load_recipe(case.recipe, (*case.overrides, f"resources.workers={case.workers}")).config
    plan = plan_memory(config)
    return config, {
        "case": case.name,
        "workers": case.workers,
        "predicted GB": round(plan.peak_bytes / 1e9, 2),
        "phase": plan.phase,
        "kernel": plan.kernel,
        "terms": plan.terms,
    }


def run(case: Case, conditions: Conditions, scratch: Path) -> dict[str, Any]:
    """Return the row of a case: predicted, and measured where it ran on a GPU."""
    _, row = predicted(case)
    conditions = replace(conditions, workers=case.workers, overrides=case.overrides)
    try:
        found = measure(case.recipe, conditions, scratch / case.name)
    except Exception as error:  # one case must not end the others
        return {**row, "measured GB": None, "difference %": None, "error": f"{type(error).__name__}: {error}"[-600:]}
    peak = found["peak GB"]
    difference = round(100 * (row["predicted GB"] / peak - 1), 1) if peak else None
    return {**row, "measured GB": peak, "difference %": difference, "tokens/s": found["tokens/s"], "error": None}


def main() -> None:
    """Parse, run every case, print and write as it goes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a built data set")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--workers", type=int, default=1, help="GPUs that there are")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one case")
    parser.add_argument(
        "--memory-gb", type=float, default=76, help="cases that are predicted to need more are left out"
    )
    parser.add_argument("--tiny", action="store_true", help="two tiny cases instead")
    arguments = parser.parse_args()
    most, rows = arguments.workers, list[dict[str, Any]]()
    cases = [case for case in (TINY_CASES if arguments.tiny else CASES) if arguments.only in case.name]
    conditions = Conditions(
        data=arguments.data, steps=arguments.steps, device=arguments.device, timeout=arguments.timeout
    )
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases:
            if case.workers > most or predicted(case)[1]["predicted GB"] > arguments.memory_gb:
                print(f"left out: {case.name}", file=sys.stderr, flush=True)
                continue
            rows.append(run(case, conditions, Path(scratch)))
            print(json.dumps({k: v for k, v in rows[-1].items() if k != "terms"}), file=sys.stderr, flush=True)
            if arguments.out is not None:
                arguments.out.write_text(json.dumps(rows, indent=2))
    names = ("case", "workers", "predicted GB", "measured GB", "difference %", "tokens/s", "phase")
    render([{name: row.get(name) for name in names} for row in rows], as_json=False)


if __name__ == "__main__":
    main()
