"""What must hold after a scenario, and what it took."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from draw import KEEP_LAST, TOTAL_STEPS, Scenario

from sisa_scale.checkpoint.manifest import read_manifest, verify_files
from sisa_scale.checkpoint.slices import CheckpointReader
from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.errors import CheckpointError

# Sums over ranks and micro-steps in another order: rounding in fp32, over 12 steps of a small model.
ROUNDING_NATS = 1e-5
_LEFTOVERS = ("stop", "failure.json")
Shape = tuple[int, int]


@dataclass(slots=True)
class Outcome:
    """What became of a scenario. detection_seconds: until every worker of the attempt was gone, or until it was noted.

    ended_ranks: that did not end by themselves within some seconds when another had failed, as torchrun would not wait.
    recovery_seconds: from the last fault to the first step that was finished after it; None if no step was left.
    """

    scenario: Scenario
    problems: list[str] = field(default_factory=list)
    faults_acted: int = 0
    faults_meant: int = 0
    detection_seconds: float | None = None
    recovery_seconds: float | None = None
    redone_steps: int = 0
    ended_ranks: int = 0
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        names = (
            "faults_acted",
            "faults_meant",
            "detection_seconds",
            "recovery_seconds",
            "redone_steps",
            "ended_ranks",
            "seconds",
        )
        head = {"index": self.scenario.index, "kind": self.scenario.kind, "what": self.scenario.words()}
        return {
            **head,
            **{name: getattr(self, name) for name in names},
            "stages": self.stages,
            "problems": self.problems,
        }


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def unix(time: str) -> float:
    """Return a time of a log in Unix seconds."""
    return datetime.fromisoformat(time).timestamp()


def check_run(run_dir: Path, reference: Path, shape: Shape) -> list[str]:
    """Compare a run that began in a shape, and may have gone on in others, with the uninterrupted run of that shape."""
    found, expected = lines(run_dir / "metrics.jsonl"), lines(reference / "metrics.jsonl")
    problems = []
    if [line["step"] for line in found] != list(range(1, TOTAL_STEPS + 1)):
        return [f"metrics.jsonl has the steps {[line['step'] for line in found]}"]
    if [line["stream_digest"] for line in found] != [line["stream_digest"] for line in expected]:
        problems.append("other tokens were read")
    attempts = lines(run_dir / "attempts.jsonl")
    if attempts[-1]["outcome"] != "finished":
        problems.append(f"the last attempt ended as {attempts[-1]['outcome']}")
    problems += _check_attempts(attempts)
    shapes = {each["attempt"]: (each["world_size"], each["zero_stage"]) for each in attempts}
    same_until = next((a for a in sorted(shapes) if shapes[a] != shape), len(shapes) + 1)
    for new, old in zip(found, expected, strict=True):
        bound = 0.0 if new["attempt"] < same_until else ROUNDING_NATS
        if abs(new["loss"] - old["loss"]) > bound:
            problems.append(f"step {new['step']}: loss {new['loss']!r} instead of {old['loss']!r}, bound {bound:g}")
            break
    problems += _check_evaluations(run_dir, reference, ROUNDING_NATS if same_until <= len(shapes) else 0.0)
    return problems + _check_checkpoints(run_dir, reference, is_same=same_until > len(shapes))


def _check_attempts(attempts: list[dict[str, Any]]) -> list[str]:
    """Every attempt has an end and a cause; the steps they finished, less those taken again, are those of the run."""
    on_purpose = ("finished", "preempted", "interrupted")
    problems = [
        f"attempt {each['attempt']} ended as {each['outcome']}, reason {each['reason']}"
        for each in attempts
        if each["outcome"] is None or (each["outcome"] not in on_purpose and not each["reason"])
    ]
    took_up = [each for each in attempts if each["from_step"] is not None]
    kept = sum(each["reached_step"] - each["from_step"] - each["lost_steps"] for each in took_up)
    if kept != TOTAL_STEPS:
        problems.append(f"attempts.jsonl accounts for {kept} of {TOTAL_STEPS} steps")
    return problems


def check_verdict(run_dir: Path) -> list[str]:
    """An attempt that hung says who was waited for."""
    reasons = [each["reason"] or "" for each in lines(run_dir / "attempts.jsonl")]
    return [] if any(text.startswith("a hang: rank") for text in reasons) else [f"no hang among the causes {reasons}"]


def _check_evaluations(run_dir: Path, reference: Path, bound: float) -> list[str]:
    events = lines(run_dir / "events.jsonl")
    left_out = {event["step"] for event in events if event["event"] == "evaluation_skipped"}  # for want of time
    found = lines(run_dir / "evaluations.jsonl")
    expected = [line for line in lines(reference / "evaluations.jsonl") if line["step"] not in left_out]
    steps = [line["step"] for line in found]
    if steps != [line["step"] for line in expected]:
        return [f"evaluations.jsonl has the steps {steps}"]
    for new, old in zip(found, expected, strict=True):
        for one, other in zip(new["scores"], old["scores"], strict=True):
            if one["metric"] == "loss" and abs(one["value"] - other["value"]) > bound:
                return [f"evaluation of step {new['step']}: {one['value']!r} instead of {other['value']!r}"]
    return []


def _check_checkpoints(run_dir: Path, reference: Path, *, is_same: bool) -> list[str]:
    store = CheckpointStore(run_dir)
    steps = store.steps()
    if not steps or steps[-1] != TOTAL_STEPS or len(steps) > KEEP_LAST:
        return [f"checkpoints of the steps {steps}"]
    try:
        for step in steps:
            verify_files(store.path(step), read_manifest(store.path(step)).files)
    except CheckpointError as error:
        return [str(error)]
    if is_same and _digest(run_dir) != _digest(reference):
        return ["the last checkpoint is not that of the uninterrupted run, bit for bit"]
    return []


def _digest(run_dir: Path) -> str:
    """Return a digest of every weight and state of the last checkpoint."""
    directory = CheckpointStore(run_dir).path(TOTAL_STEPS)
    manifest = read_manifest(directory)
    reader, digest = CheckpointReader(directory, manifest), hashlib.sha256()
    for kind, name in sorted(manifest.tensors):
        digest.update(reader.read(kind, name).numpy().tobytes())
    return digest.hexdigest()


def leftovers(run_dir: Path, scratch: Path, num_damaged: int) -> list[str]:
    """Return problems with files that ought not to be there."""
    found = []
    for folder, folders, files in os.walk(run_dir):
        if Path(folder) == run_dir and "ray" in folders:
            folders.remove("ray")  # what Ray keeps of its own
        for name in (*folders, *files):
            if name.startswith(".") or name.endswith((".tmp", ".trash", ".old")) or name in _LEFTOVERS:
                found.append(str(Path(folder, name).relative_to(run_dir)))
    found += [f"TMPDIR/{entry.name}" for entry in scratch.iterdir()]
    problems = [f"left behind: {', '.join(found)}"] if found else []
    damaged = [path.name for path in (run_dir / "checkpoints").glob("*.damaged*")]
    if len(damaged) != num_damaged:
        problems.append(f"checkpoints set aside: {damaged}, {num_damaged} were damaged")
    return problems


def after(run_dir: Path, fault: float) -> tuple[float | None, int]:
    """Return seconds from a fault to the first step that was finished after it, and the steps redone in all."""
    attempts = lines(run_dir / "attempts.jsonl")
    at_fault = [each for each in attempts if unix(each["started"]) <= fault]
    has_died = len(at_fault) < len(attempts)
    times = [
        unix(line["time"]) - fault
        for line in lines(run_dir / "metrics.jsonl")
        if unix(line["time"]) > fault and (not has_died or line["attempt"] > len(at_fault))
    ]
    return min(times, default=None), sum(each["lost_steps"] for each in attempts)
