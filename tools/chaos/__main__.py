"""Kill, stop, starve and damage runs on purpose, and compare each with a run that nothing befell.

    python tools/chaos --scenarios 20 --seed 1
    python tools/chaos --scenarios 10 --seed 1 --only reshape        # the first ten of a kind
    python tools/chaos --seed 1 --only 17                            # scenario 17 of seed 1 again

A scenario is drawn from (seed, index), see draw.py. Those named kill_rank_at_moment, kill_all_ranks, preemption
and part of kill_in_recovery strike at a part of a life's usual time, so what they hit varies from one time to the next;
all others act at a named place. After each: every step once, tokens, losses, evaluations and the last checkpoint equal
to those of the uninterrupted run in the shape of the first life (to the last bit as long as the shape stays, else
within ROUNDING_NATS of checks.py), and no process, temporary file or Ray daemon left. Exits with 1 if anything
differs.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback
from itertools import count, islice
from pathlib import Path

import ranks
from checks import Outcome, Shape, after, check_run, check_verdict, leftovers, lines, unix
from draw import Life, Scenario, draw, kinds
from life import Lived, live

from sisa_scale.cli.common.console import render
from sisa_scale.data.build.embedded import build_embedded
from sisa_scale.data.manifest import MANIFEST_NAME

_EXTRA_LIVES = 2  # a life that was to meet nothing may still be lost to what befell the one before
_REMAINS_SECONDS = {"ranks": 5.0, "ray": 180.0, "nodes": 180.0}
_RECIPE = """
name: chaos
seed: 5
model: {{kind: sisa, num_layers: 2, d_model: 32, num_heads: 2, d_ff: 80, vocab_size: 4096, max_length_tokens: 32,
  sisa: {{d_s: 8}}}}
data: {{path: {data}, sequence_tokens: 16, global_batch_tokens: 192}}
optimizer: {{learning_rate: 3e-3}}
schedule: {{kind: wsd, total: 12 steps, warmup: 2 steps, decay: 2 steps}}
execution: {{micro_batch_sequences: 3, precision: fp32}}
resources: {{workers: 2, device: cpu}}
checkpoint: {{every_steps: 3, keep_last: 2}}
evaluation: {{tasks: [loss], num_heldout_sequences: 4, every_steps: 4, monitor_every_steps: 0, needle_lengths: [32]}}
wandb: {{mode: disabled}}
"""


class Chaos:
    """Runs scenarios one after the other in a folder of their own."""

    def __init__(self, root: Path) -> None:
        self.root, self.recipe = root, root / "chaos.yaml"
        self._references: dict[Shape, tuple[Path, float]] = {}
        ranks.prepare()
        self._build_data(root / "data")
        self.recipe.write_text(_RECIPE.format(data=root / "data"))

    @staticmethod
    def _build_data(out: Path) -> None:
        """Build the data in a process of its own: the tokenizer's threads stay there."""
        pid = os.fork()
        if pid == 0:
            try:
                build_embedded(out)
            finally:
                os._exit(not (out / MANIFEST_NAME).exists())
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError("the data could not be built")

    def reference(self, shape: Shape) -> tuple[Path, float]:
        """Return the uninterrupted run of a shape and the seconds that it took."""
        if shape not in self._references:
            folder = self.root / f"reference_{shape[0]}_{shape[1]}"
            folder.mkdir()
            started = time.time()
            lived = live(None, Life(*shape), self.recipe, folder, 0, 0.0)
            if any(lived.codes):
                raise RuntimeError(f"the uninterrupted run of {shape} ended with {lived.codes}, see {folder}")
            self._references[shape] = folder / "run", time.time() - started
        return self._references[shape]

    def carry_out(self, scenario: Scenario) -> Outcome:
        """Carry out a scenario and check what it left; its folder stays if anything is wrong."""
        reference, usual_seconds = self.reference(scenario.lives[0].shape)
        folder = self.root / f"scenario_{scenario.index}"
        folder.mkdir()
        outcome = Outcome(scenario)
        started = time.time()
        try:
            if scenario.launcher == "ranks":
                self._live_ranks(outcome, folder, usual_seconds)
            else:
                from ray_runs import live_ray

                live_ray(outcome, folder, self.recipe)
            outcome.problems += check_run(folder / "run", reference, scenario.lives[0].shape)
            outcome.problems += check_verdict(folder / "run") if scenario.is_watched and outcome.faults_acted else []
        except Exception as error:
            outcome.problems.append("".join(traceback.format_exception(error)[-3:]).strip())
        damages = sum(life.damage is not None for life in scenario.lives)
        orphans = ranks.remains(_REMAINS_SECONDS[scenario.launcher])
        outcome.problems += [f"left running: {name}" for name in orphans]
        (folder / "tmp").mkdir(exist_ok=True)
        outcome.problems += leftovers(folder / "run", folder / "tmp", damages)
        outcome.seconds = time.time() - started
        if not outcome.problems:
            shutil.rmtree(folder)
        return outcome

    def _live_ranks(self, outcome: Outcome, folder: Path, usual_seconds: float) -> None:
        scenario, faults = outcome.scenario, []
        planned = [*scenario.lives, *[scenario.lives[-1]] * _EXTRA_LIVES]
        for number, life in enumerate(planned):
            lived = live(scenario, life, self.recipe, folder, number, usual_seconds)
            is_meant = bool(life.faults or life.strike or life.damage) and number < len(scenario.lives)
            outcome.faults_meant += is_meant
            outcome.faults_acted += lived.fault is not None and is_meant
            outcome.ended_ranks += len(lived.stuck)
            if lived.stuck and (scenario.is_watched or number + 1 >= len(scenario.lives)):
                outcome.problems.append(f"life {number + 1}: the ranks {lived.stuck} did not end: {lived.codes}")
            if lived.fault is not None:
                faults.append((lived.fault, lived))
            if number + 1 >= len(scenario.lives) and not any(lived.codes):
                break
        else:
            outcome.problems.append(f"the last life ended with {lived.codes}")
        if faults:
            _time(outcome, folder / "run", *faults[-1])


def _time(outcome: Outcome, run_dir: Path, fault: float, lived: Lived) -> None:
    """Fill in detection, recovery and steps redone after the last fault."""
    words = {"hang": "hang", "disk_full": "checkpoint_failed", "damaged_checkpoint": "checkpoint_damaged"}
    noted = words.get(outcome.scenario.kind)
    times = [
        unix(e["time"]) for e in lines(run_dir / "events.jsonl") if e["event"] == noted and unix(e["time"]) > fault
    ]
    outcome.detection_seconds = (times[0] if times else lived.over) - fault
    outcome.recovery_seconds, outcome.redone_steps = after(run_dir, fault)


def report(outcome: Outcome) -> None:
    """Print the line of a scenario."""

    def seconds(value: float | None) -> str:
        return "    -" if value is None else f"{value:5.2f}"

    verdict = "FAILED" if outcome.problems else "ok"
    missed = "" if outcome.faults_acted == outcome.faults_meant else " (over before it was struck)"
    print(
        f"{outcome.scenario.index:5} {verdict:6} {outcome.scenario.kind:20} "
        f"detection {seconds(outcome.detection_seconds)} s "
        f"recovery {seconds(outcome.recovery_seconds)} s redone {outcome.redone_steps:2} all {outcome.seconds:5.1f} s  "
        f"{outcome.scenario.words()}{missed}",
        flush=True,
    )
    for problem in outcome.problems:
        print(f"      {problem}", flush=True)


def summarise(outcomes: list[Outcome]) -> list[dict[str, object]]:
    """Return a row for each kind: how many, how many struck, medians and maxima."""
    rows: list[dict[str, object]] = []
    for kind in kinds():
        own = [outcome for outcome in outcomes if outcome.scenario.kind == kind]
        if not own:
            continue
        row: dict[str, object] = {"scenario": kind, "runs": len(own)}
        row["struck"] = sum(o.faults_acted > 0 for o in own)
        row["failed"] = sum(bool(o.problems) for o in own)
        for name in ("detection_seconds", "recovery_seconds", "redone_steps"):
            values = [float(getattr(o, name)) for o in own if o.faults_acted and getattr(o, name) is not None]
            label = name.removesuffix("_seconds") + (" s" if name.endswith("seconds") else "")
            row[f"{label}, median"] = round(statistics.median(values), 2) if values else None
            row[f"{label}, most"] = round(max(values), 2) if values else None
        row["s each"] = round(statistics.mean(o.seconds for o in own), 1)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", type=int, default=20, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="NAME", help=f"one kind ({', '.join(kinds())}), or the index of one scenario")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every scenario and the table there")
    arguments = parser.parse_args()
    if arguments.only is not None and arguments.only.isdigit():
        drawn = iter([draw(arguments.seed, int(arguments.only))])
    elif arguments.only is not None and arguments.only not in kinds():
        parser.error(f"--only {arguments.only}: {', '.join(kinds())}, or an index")
    else:
        every = (draw(arguments.seed, index) for index in count())
        drawn = islice((s for s in every if arguments.only in (None, s.kind)), arguments.scenarios)
    root = Path(tempfile.mkdtemp(prefix="sisa-chaos-"))
    chaos = Chaos(root)
    outcomes: list[Outcome] = []
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell without job control has it ignored
    try:
        for scenario in drawn:
            outcomes.append(chaos.carry_out(scenario))
            report(outcomes[-1])
    except KeyboardInterrupt:
        print(f"stopped after {len(outcomes)} scenarios")
        ranks.remains(0.2)
    table = summarise(outcomes)
    render(table, as_json=False)
    if arguments.json is not None:
        body = {"seed": arguments.seed, "summary": table, "scenarios": [outcome.plain() for outcome in outcomes]}
        arguments.json.write_text(json.dumps(body, indent=1) + "\n")
    failed = [outcome.scenario.index for outcome in outcomes if outcome.problems]
    for index in failed:
        print(f"again: python tools/chaos --seed {arguments.seed} --only {index}  (files: {root}/scenario_{index})")
    if failed:
        sys.exit(1)
    shutil.rmtree(root)


if __name__ == "__main__":
    if os.environ.get("OMP_NUM_THREADS") != "1":  # read by libraries when they are imported, to start threads
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OMP_NUM_THREADS": "1"})
    main()
