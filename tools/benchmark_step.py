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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sisa_scale.cli.common.console import render
from sisa_scale.runs.layout import ATTENTION_BACKEND, METRICS


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """On what a recipe is measured. timeout: seconds; overrides: KEY=VALUE, the last word on every setting."""

    data: Path
    steps: int
    device: str
    timeout: float
    workers: int = 1
    overrides: tuple[str, ...] = ()

    @property
    def warmup(self) -> int:
        """Steps of warm-up, which figures leave out."""
        return max(1, self.steps // 5)

    def settings(self, run_dir: Path) -> tuple[str, ...]:
        """Return what makes a measurement of a recipe: nothing but steps, and no weights are kept."""
        steps = [f"total={self.steps} steps", f"warmup={self.warmup} steps", "schedule.decay=0 steps"]
        off = ["checkpoint.every_steps=0", "checkpoint.at_end=false", "evaluation.tasks=[]", "monitor_every_steps=0"]
        place = [f"run_dir={run_dir}", f"data.path={self.data.resolve()}"]
        return (*place, *steps, *off, "wandb.mode=disabled", *self.overrides)


def measure(recipe: str, conditions: Conditions, run_dir: Path) -> dict[str, Any]:
    """Run one recipe and return its row; raises RuntimeError with the end of its output when it fails."""
    train(recipe, conditions.settings(run_dir), conditions)
    lines = [json.loads(line) for line in (run_dir / METRICS).read_text().splitlines()]
    steady = lines[conditions.warmup :] or lines
    record = run_dir / ATTENTION_BACKEND
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


def train(recipe: str | Path, settings: tuple[str, ...], conditions: Conditions) -> None:
    """Carry out a recipe or continue a run under torchrun; raises RuntimeError with the end of its output if it fails.

    After the timeout torchrun is told to end, which ends its workers, before TimeoutExpired is raised.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(conditions.workers), "-m", "sisa_scale.cli.main", "worker", str(recipe)]
    command += ["--device", conditions.device, *settings]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            _, errors = process.communicate(timeout=conditions.timeout)
        except subprocess.TimeoutExpired:
            process.terminate()
            raise
    if process.returncode:
        raise RuntimeError(f"{recipe} ended with {process.returncode}:\n{errors[-3000:]}")


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
    conditions = Conditions(
        data=arguments.data,
        steps=arguments.steps,
        device=arguments.device,
        timeout=arguments.timeout,
        workers=arguments.workers,
        overrides=tuple(arguments.overrides),
    )
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, recipe in enumerate(arguments.recipes):
            row = measure(recipe, conditions, Path(scratch) / str(number))
            row["relative"] = round(row["tokens/s"] / (rows[0] if rows else row)["tokens/s"], 3)
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    render(rows, as_json=arguments.json)


if __name__ == "__main__":
    main()
