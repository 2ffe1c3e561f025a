"""How recipes scale over the GPUs of one machine, and whether a run goes on from its checkpoint on half of them.

    python tools/benchmark_scaling.py sisa/152m-ds16 sisa/1.3b sisa/6.9b --data DATA --gpus 1 2 4 8 --out scaling.json
    python tools/benchmark_scaling.py sisa/6.9b --data DATA --gpus 8 --stages 3 --resume --steps 50 --out resume.json

Every case runs by itself through the product's own worker, under torchrun, with a timeout of its own; its row is
printed and written when it ends. Weak scaling: every GPU has the same work (--micro-steps micro-batches of the recipe a
step), and efficiency is its rate over that on the fewest GPUs where the same recipe ran under the same ZeRO stage.
Cases that are planned not to fit the memory are named and left out.

--resume saves in the middle of a run and takes its second half again on half the GPUs. save stall s is how long
training stood still; restore s lasts from workers that have found each other to the first step, start s the same
without weights to load; loss difference is the largest between the two second halves, in nats.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmark_step import Conditions, measure, train

from sisa_scale.cli.common.console import render
from sisa_scale.planning.memory.estimate import plan_memory
from sisa_scale.planning.twins import load_recipe

Row = dict[str, Any]


def cases(arguments: argparse.Namespace) -> Iterator[tuple[str, Conditions, Row]]:
    """Yield every recipe under every stage on every number of GPUs, with the first columns of its row."""
    for recipe in arguments.recipes:
        for stage in arguments.stages:
            for gpus in sorted(arguments.gpus):
                own = load_recipe(recipe, tuple(arguments.overrides)).config
                sequences = own.execution.micro_batch_sequences * arguments.micro_steps * gpus
                batch = f"global_batch_tokens={sequences * own.data.sequence_tokens}"
                overrides = (*arguments.overrides, f"zero_stage={stage}", batch)
                config = load_recipe(recipe, (*overrides, f"resources.workers={gpus}")).config
                planned = round(plan_memory(config).peak_bytes / 1e9, 1)
                conditions = Conditions(
                    data=arguments.data,
                    steps=arguments.steps,
                    device=arguments.device,
                    timeout=arguments.timeout,
                    workers=gpus,
                    overrides=overrides,
                )
                yield recipe, conditions, {"recipe": recipe, "ZeRO": stage, "GPUs": gpus, "planned GB": planned}


def scale(recipe: str, conditions: Conditions, run_dir: Path) -> Row:
    """Measure one case."""
    found = measure(recipe, conditions, run_dir)
    return {name: found[name] for name in ("tokens/s", "spread %", "MFU %", "peak GB", "first step s", "last loss")}


def resume(recipe: str, conditions: Conditions, run_dir: Path, there: tuple[str, ...]) -> Row:
    """Train, save in the middle, and take the second half again on half the GPUs, with the overrides `there`."""
    middle = conditions.steps // 2
    train(recipe, (*conditions.settings(run_dir), f"checkpoint.at_steps=[{middle}]"), conditions)
    whole, saved = lines(run_dir / "metrics.jsonl"), lines(run_dir / "events.jsonl")
    save = next(event for event in saved if event["event"] == "checkpoint")
    half = max(1, conditions.workers // 2)
    train(run_dir, there, replace(conditions, workers=half))
    again = lines(run_dir / "metrics.jsonl")
    pairs = list(zip(whole[middle:], again[middle:], strict=True))
    if any(first["stream_digest"] != second["stream_digest"] for first, second in pairs):
        raise RuntimeError(f"{recipe}: other tokens on {half} GPUs than on {conditions.workers}")
    start, restore = (
        (datetime.fromisoformat(attempt["resumed"]) - datetime.fromisoformat(attempt["started"])).total_seconds()
        for attempt in lines(run_dir / "attempts.jsonl")
    )
    peaks = [steps[-1]["peak_memory_bytes"] for steps in (whole, again)]
    return {
        "peak GB": round(peaks[0] / 1e9, 1) if peaks[0] else None,
        "resumed on": half,
        "peak GB there": round(peaks[1] / 1e9, 1) if peaks[1] else None,
        "loss difference": max(abs(first["loss"] - second["loss"]) for first, second in pairs),
        "checkpoint GB": round(save["bytes"] / 1e9, 2),
        "save stall s": round(save["stall_seconds"], 2),
        "write s": round(save["write_seconds"], 1),
        "start s": round(start, 1),
        "restore s": round(restore, 1),
        "last loss": again[-1]["loss"],
    }


def lines(path: Path) -> list[Row]:
    """Return the lines of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def add_efficiency(rows: list[Row]) -> None:
    """Give the newest row its efficiency."""
    newest = rows[-1]
    alike = [row for row in rows if (row["recipe"], row["ZeRO"]) == (newest["recipe"], newest["ZeRO"])]
    ran = [row for row in alike if row.get("tokens/s")]
    if newest in ran:
        least = ran[0]
        newest["efficiency"] = round(newest["tokens/s"] / newest["GPUs"] / (least["tokens/s"] / least["GPUs"]), 3)


def main() -> None:
    """Parse, run every case, print and write as it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="a built data set")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2], help="numbers of GPUs")
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 3], help="ZeRO stages")
    parser.add_argument("--micro-steps", type=int, default=8, help="micro-batches of a step on one GPU")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--resume", action="store_true", help="save, and go on on half the GPUs, instead of timing")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one run")
    parser.add_argument("--memory-gb", type=float, default=132, help="leave out what is planned to need more")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="KEY=VALUE for every case")
    parser.add_argument("--set-there", dest="there", action="append", default=[], help="KEY=VALUE for half the GPUs")
    parser.add_argument("--out", type=Path, help="JSON file to write after every case")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for recipe, conditions, row in cases(arguments):
        rows.append(row)
        with tempfile.TemporaryDirectory() as scratch:  # a checkpoint of billions of parameters does not stay
            try:
                if row["planned GB"] > arguments.memory_gb:
                    raise RuntimeError("left out: planned not to fit")
                run_dir = Path(scratch) / "run"
                if arguments.resume:
                    row.update(resume(recipe, conditions, run_dir, tuple(arguments.there)))
                else:
                    row.update(scale(recipe, conditions, run_dir))
                    add_efficiency(rows)
            except Exception as error:  # one case must not end the others
                row["error"] = f"{type(error).__name__}: {error}"[-800:]
        print(json.dumps(row), file=sys.stderr, flush=True)
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(rows, indent=2))
    names = list(dict.fromkeys(name for row in rows for name in row if name != "error"))
    render([{name: row.get(name) for name in names} for row in rows], as_json=False)


if __name__ == "__main__":
    main()
