"""Measure the training step of recipes on this machine: tokens/s, MFU, peak memory, and the ratio to the first recipe.

    python tools/benchmark_step.py transformer/152m sisa/152m-ds16 --data DATA --steps 100

Every recipe runs by itself under torchrun, through the product's own worker: real shards, DeepSpeed, torch.compile as
the recipe says. Figures are medians of the steps after the first fifth; spread is the middle half of their rates.
`--json` prints what tools/compare_benchmarks.py compares.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sisa_scale.cli.console import render


def measure(recipe: str, arguments: argparse.Namespace, run_dir: Path) -> dict[str, Any]:
    """Run one recipe and return its row; raises RuntimeError with the end of its output when it fails."""
    warmup = max(1, arguments.steps // 5)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(arguments.workers),
        "--standalone",
    ]
    command += ["-m", "sisa_scale.cli.main", "worker", recipe, "--device", arguments.device, f"run_dir={run_dir}"]
    command += [f"data.path={arguments.data.resolve()}", f"total={arguments.steps} steps", f"warmup={warmup} steps"]
    command += ["schedule.decay=0 steps", "checkpoint.every_steps=0", "checkpoint.at_end=false"]
    command += ["evaluation.tasks=[]", "monitor_every_steps=0", "wandb.mode=disabled", *arguments.overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout, check=False)
    if done.returncode:
        raise RuntimeError(f"{recipe} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steady = lines[warmup:] or lines
    record = run_dir / "attention_backend.json"
    kernels = json.loads(record.read_text()) if record.exists() else {"backend": "cpu", "milliseconds": {}}
    has_mfu = steady[-1]["mfu"] is not None
    memory = lines[-1]["peak_memory_bytes"]
    rates = sorted(line["tokens_per_second"] for line in steady)
    middle_half = rates[(3 * len(rates)) // 4] - rates[len(rates) // 4]
    return {
        "recipe": recipe,
        "tokens/s": round(statistics.median(rates)),
        "spread %": round(100 * middle_half / statistics.median(rates), 2),
        "MFU %": round(100 * statistics.median(line["mfu"] for line in steady), 1) if has_mfu else None,
        "peak GB": round(memory / 1e9, 1) if memory else None,
        "first step s": round(lines[0]["step_seconds"], 1),
        "data wait ms": round(1e3 * statistics.median(line["data_wait_seconds"] for line in steady), 2),
        "attention": kernels["backend"],
        "attention ms": {name: round(value, 3) for name, value in kernels["milliseconds"].items()},
        "last loss": round(lines[-1]["loss"], 4),
    }


def main() -> None:
    """Parse, measure every recipe, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipes", nargs="+", help="recipes; ratios are to the first")
    parser.add_argument("--data", type=Path, required=True, help="a built data set")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one recipe")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="KEY=VALUE for every recipe")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, recipe in enumerate(arguments.recipes):
            row = measure(recipe, arguments, Path(scratch) / str(number))
            row["relative"] = round(row["tokens/s"] / (rows[0] if rows else row)["tokens/s"], 3)
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    render(rows, as_json=arguments.json)


if __name__ == "__main__":
    main()
