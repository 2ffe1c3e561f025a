"""Race recipes to a held-out loss on this machine: seconds, tokens and FLOPs until it is reached, runs paired by seed.

    python tools/benchmark_time_to_loss.py adamw.yaml muon.yaml --target 3.28 --data DATA --seeds 0 1 2 --out race.json

Every recipe is trained whole with every seed (of weights and of the order of the data) through the product's own worker
under torchrun, one after the other, the recipes of a seed in turn. Its schedule is part of a recipe: a run that is
to be fast ends soon after the target. --every tells how often the held-out loss is measured; between the last
loss above the target and the first at or below it, it is taken to fall in a line.

Seconds are those of training steps, with their waiting for data; starting, evaluating and saving are left out, and the
first step, which compiles, counts as the median one. FLOPs are the model's (`sisa-scale plan`), which leaves out those
of the optimizer. Ratios are to the first recipe with the same seed: their geometric mean, with a 95 % interval of
Student's t over seeds (from two on). Below 1 is faster.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmark_step import Conditions, train
from scipy.stats import t as student

from sisa_scale.cli.common.console import render
from sisa_scale.planning.flops import flops_per_token
from sisa_scale.planning.twins import load_recipe
from sisa_scale.runs.logs.evaluations import heldout_losses
from sisa_scale.runs.logs.metrics import read_steps

Row = dict[str, Any]
MEASURES = ("seconds", "tokens", "PFLOPs")
CONFIDENCE = 0.95


def reached(losses: dict[int, float], target: float) -> float | None:
    """Return the step, in fractions, at which a held-out loss by step reaches the target; None if it never does.

    A target that the first measurement is below already is reached there: nothing tells when before.
    """
    before: tuple[int, float] | None = None
    for step, loss in sorted(losses.items()):
        if loss <= target:
            if before is None:
                return float(step)
            earlier, above = before
            return earlier + (step - earlier) * (above - target) / (above - loss)
        before = step, loss
    return None


def seconds_until(step_seconds: Sequence[float], step: float) -> float:
    """Return the seconds of the first steps, the last of them in part; the first counts as the median one."""
    usual = [statistics.median(step_seconds), *step_seconds[1:]]
    whole = math.floor(step)
    return sum(usual[:whole]) + ((step - whole) * usual[whole] if whole < step else 0.0)


def read_race(run_dir: Path, target: float, train_flops_per_token: float) -> Row:
    """Return what a run took to its target, with None where it did not reach it."""
    steps, losses = read_steps(run_dir), heldout_losses(run_dir)
    best = {"best loss": round(min(losses.values()), 4)} if losses else {"best loss": None}
    step = reached(losses, target)
    if step is None:
        return dict.fromkeys(("step", *MEASURES)) | best
    tokens = step * steps[-1].tokens / steps[-1].step
    return {
        "step": round(step, 1),
        "seconds": round(seconds_until([row.step_seconds for row in steps], step), 2),
        "tokens": round(tokens),
        "PFLOPs": float(f"{tokens * train_flops_per_token / 1e15:.5g}"),
        **best,
    }


def mean_ratio(ratios: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the geometric mean of ratios and the ends of its interval, None for a single one."""
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(mean), None, None
    half = float(student.ppf((1 + CONFIDENCE) / 2, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def summary(rows: Sequence[Row], recipes: Iterable[str]) -> list[Row]:
    """Return a line for every recipe: how many runs reached the target, medians, and ratios to the first recipe."""
    lines, first = [], rows[0]["recipe"]
    for recipe in recipes:
        own = {row["seed"]: row for row in rows if row["recipe"] == recipe}
        there = [row for row in own.values() if row["step"] is not None]
        line: Row = {"recipe": recipe, "reached": f"{len(there)} of {len(own)}"}
        line |= {name: statistics.median(row[name] for row in there) if there else None for name in MEASURES}
        base = {row["seed"]: row for row in rows if row["recipe"] == first and row["step"] is not None}
        pairs = [(row, base[row["seed"]]) for row in there if row["seed"] in base]
        for name in MEASURES if recipe != first and pairs else ():
            mean, low, high = mean_ratio([row[name] / other[name] for row, other in pairs])
            line[f"{name} ratio"] = f"{mean:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")
        lines.append(line)
    names = dict.fromkeys(name for line in lines for name in line)
    return [{name: line.get(name) for name in names} for line in lines]


def settings(arguments: argparse.Namespace, seed: int, run_dir: Path) -> tuple[str, ...]:
    """Return what makes a race of a recipe."""
    measured = ["evaluation.tasks=[loss]", f"evaluation.every_steps={arguments.every}"]
    off = ["checkpoint.every_steps=0", "checkpoint.at_end=false", "monitor_every_steps=0", "wandb.mode=disabled"]
    place = [f"run_dir={run_dir}", f"data.path={arguments.data.resolve()}"]
    return (*place, *measured, *off, f"seed={seed}", f"data.seed={seed}", *arguments.overrides)


def main() -> None:
    """Parse, race, print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", help="ratios are to the first")
    parser.add_argument("--target", type=float, required=True, metavar="NATS", help="held-out loss, nats per token")
    parser.add_argument("--data", type=Path, required=True, help="a built data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--every", type=int, default=25, metavar="STEPS", help="steps between measured losses")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--timeout", type=float, default=7200, help="seconds for one run")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="KEY=VALUE for every recipe")
    parser.add_argument("--out", type=Path, help="JSON file with the rows, written after every run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in arguments.seeds:
            for number, recipe in enumerate(arguments.recipes):
                run_dir = Path(scratch) / f"{number}-{seed}"
                own = settings(arguments, seed, run_dir)
                config = load_recipe(recipe, own).config
                conditions = Conditions(
                    data=arguments.data,
                    steps=config.total_steps,
                    device=arguments.device,
                    timeout=arguments.timeout,
                    workers=arguments.workers,
                )
                train(recipe, own, conditions)
                flops = flops_per_token(config.model, config.data.sequence_tokens).train
                rows.append({"recipe": recipe, "seed": seed, **read_race(run_dir, arguments.target, flops)})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                if arguments.out is not None:
                    arguments.out.write_text(json.dumps(rows, indent=2))
    if arguments.json:
        print(json.dumps({"runs": rows, "recipes": summary(rows, arguments.recipes)}, indent=2))
    else:
        render(rows, as_json=False, title=f"To {arguments.target} nats")
        render(summary(rows, arguments.recipes), as_json=False, title="Over seeds")


if __name__ == "__main__":
    main()
