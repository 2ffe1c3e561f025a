"""Measure what checkpoints cost a run on this machine: the stall of a save, synchronous and asynchronous, and a load.

    python tools/benchmark_checkpoint.py --parameters 90 --steps 12 --every-steps 4
    python tools/benchmark_checkpoint.py --parameters 1300 --device cuda --workers 1 --steps 60 --every-steps 20

A Transformer of about so many million parameters (12 bytes of state each) trains on the text of the package under
torchrun, through the product's own worker: without checkpoints, with synchronous ones, with asynchronous ones. The last
checkpoint of a run, which is always waited for, and the first fifth of the steps are left out.

stall s: how long training stood still for a save; stall %: of the time of steps and stalls together; step s: the mean
step, which pays for the writing beside it; cost %: steps and stalls, over the steps without checkpoints; CPU s: of all
processes. verify s and load s: to hash every file and to read every tensor in one process, from warm memory.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sisa_scale.checkpoint.manifest import verify_files
from sisa_scale.checkpoint.slices import CheckpointReader
from sisa_scale.checkpoint.store import CheckpointStore, find_checkpoint
from sisa_scale.cli.common.console import render
from sisa_scale.data.build.embedded import build_embedded

MODES = {"none": ["checkpoint.every_steps=0"], "synchronous": ["asynchronous=false"], "asynchronous": []}
_WIDTH_OF = {"small": 768, "large": 2048}


def write_recipe(directory: Path, arguments: argparse.Namespace) -> Path:
    """Write a recipe of about the asked size: a layer has 12 times the square of its width."""
    width = _WIDTH_OF["large" if arguments.parameters >= 500 else "small"]
    layers = max(1, round(arguments.parameters * 1e6 / (12 * width**2)))
    tokens = arguments.sequences * arguments.workers * arguments.sequence_tokens
    precision = "bf16" if arguments.device == "cuda" else "fp32"
    recipe = directory / "benchmark.yaml"
    recipe.write_text(
        f"""
name: benchmark
model: {{kind: transformer, num_layers: {layers}, d_model: {width}, num_heads: {width // 64}, d_ff: {8 * width // 3},
  vocab_size: 4096, max_length_tokens: {arguments.sequence_tokens}}}
data: {{path: {directory}/data, sequence_tokens: {arguments.sequence_tokens}, global_batch_tokens: {tokens}}}
optimizer: {{learning_rate: 1e-4}}
schedule: {{kind: wsd, total: {arguments.steps} steps, warmup: 1 steps, decay: 0 steps}}
execution: {{micro_batch_sequences: {arguments.sequences}, zero_stage: 1, precision: {precision}}}
resources: {{workers: {arguments.workers}, device: {arguments.device}}}
checkpoint: {{every_steps: {arguments.every_steps}, keep_last: 1}}
evaluation: {{tasks: [], monitor_every_steps: 0, needle_lengths: [64]}}
watchdog: {{floor_seconds: null}}
wandb: {{mode: disabled}}
"""
    )
    return recipe


def run(recipe: Path, run_dir: Path, overrides: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Train once and return its figures; raises RuntimeError with the end of its output when it fails."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(arguments.workers), "-m", "sisa_scale.cli.main", "worker", str(recipe)]
    command += ["--device", arguments.device, f"run_dir={run_dir}", *overrides]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout, check=False)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    warmup = max(1, arguments.steps // 5)
    steps = [line["step_seconds"] for line in _lines(run_dir / "metrics.jsonl") if line["step"] > warmup]
    saves = [line for line in _lines(run_dir / "events.jsonl") if line["event"] == "checkpoint"]
    last = saves.pop()
    saves = [line for line in saves if line["step"] > warmup]
    stalls = [line["stall_seconds"] for line in saves]
    return {
        "state GB": round(last["bytes"] / 1e9, 3),
        "saves": len(saves),
        "stall s": round(statistics.mean(stalls), 3) if stalls else None,
        "write s": round(statistics.mean(line["write_seconds"] for line in saves), 2) if saves else None,
        "stall %": round(100 * sum(stalls) / (sum(steps) + sum(stalls)), 2),
        "step s": round(statistics.mean(steps), 4),
        "median step s": round(statistics.median(steps), 4),
        "CPU s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "seconds": sum(steps) + sum(stalls),
    }


def load(run_dir: Path) -> dict[str, float]:
    """Verify and read the checkpoint of a run."""
    started = time.perf_counter()
    _, manifest = find_checkpoint(run_dir)
    directory = CheckpointStore(run_dir).path(manifest.step)
    verify_files(directory, manifest.files)
    verified = time.perf_counter()
    reader = CheckpointReader(directory, manifest)
    for kind, name in manifest.tensors:
        reader.read(kind, name)
    return {"verify s": round(verified - started, 2), "load s": round(time.perf_counter() - verified, 2)}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=90, help="millions")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--every-steps", type=int, default=4)
    parser.add_argument("--sequences", type=int, default=2, help="sequences of a step on a worker")
    parser.add_argument("--sequence-tokens", type=int, default=128)
    parser.add_argument("--directory", type=Path, help="where the runs and checkpoints lie; by default the temporary")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds a run may take")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        root = Path(folder)
        build_embedded(root / "data")
        recipe = write_recipe(root, arguments)
        for mode, overrides in MODES.items():
            rows.append({"mode": mode, **run(recipe, root / mode, overrides, arguments)})
        loading = load(root / "asynchronous")
    plain = rows[0]["seconds"]
    for row in rows:
        row["cost %"] = round(100 * (row.pop("seconds") / plain - 1), 1)
    rows[-1].update(loading)
    table = [{key: row.get(key) for key in rows[-1]} for row in rows]
    render(table, as_json=arguments.json)


if __name__ == "__main__":
    main()
