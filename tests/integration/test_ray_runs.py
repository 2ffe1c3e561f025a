"""The command as a person uses it: a local Ray cluster, two workers, and everything that can be killed."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import finish, metrics, run_command, start_command

STEPS = 120  # long enough that nothing is over before it is killed
LATEST_KILL = 25
OVERRIDES = [f"total={STEPS} steps", "checkpoint.every_steps=8", "evaluation.tasks=[]"]


def wait_for_step(run_dir: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (run_dir / "metrics.jsonl").exists() and any(line["step"] >= step for line in metrics(run_dir)):
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached")


def wait_for_attempt(run_dir: Path, number: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if metrics(run_dir)[-1]["attempt"] == number:
            return
        time.sleep(0.05)
    raise AssertionError(f"no step of attempt {number}")


def attempts(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "attempts.jsonl").read_text().splitlines()]


def pids(run_dir: Path) -> list[int]:
    return [int(process.rpartition(":")[2]) for process in attempts(run_dir)[-1]["processes"]]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def trace(run_dir: Path) -> list[tuple[int, float, str]]:
    return [(line["step"], line["loss"], line["stream_digest"]) for line in metrics(run_dir)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, write_recipe: Callable[[Path], Path]) -> Path:
    root = tmp_path_factory.mktemp("ray")
    process = start_command("train", write_recipe(root), f"run_dir={root}/whole", *OVERRIDES)
    output = finish(process)
    assert process.returncode == 0, output
    assert "report.html" in output
    return root / "whole"


def test_run_leaves_everything_a_run_directory_holds(uninterrupted: Path) -> None:
    names = {"config.yaml", "deepspeed.json", "provenance.json", "metrics.jsonl", "monitors.jsonl", "report.html"}
    assert names <= {path.name for path in uninterrupted.iterdir()}
    assert [line["step"] for line in metrics(uninterrupted)] == list(range(1, STEPS + 1))
    assert [attempt["outcome"] for attempt in attempts(uninterrupted)] == ["finished"]


def test_second_train_refuses_and_names_resume(uninterrupted: Path, recipe: Path) -> None:
    process = start_command("train", recipe, f"run_dir={uninterrupted}", *OVERRIDES)
    output = finish(process)
    assert process.returncode == 2
    assert "sisa-scale resume" in output


def test_nothing_is_lost_whatever_is_killed_or_asked_to_stop(uninterrupted: Path, recipe: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start_command("submit", recipe, "--to", "local", f"run_dir={run_dir}", *OVERRIDES)  # as `train` does
    wait_for_step(run_dir, random.randrange(9, LATEST_KILL))
    workers = pids(run_dir)
    os.kill(process.pid, signal.SIGKILL)  # the driver: no process stays
    process.wait()
    deadline = time.monotonic() + 60
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(is_alive, workers))

    process = start_command("resume", run_dir)
    wait_for_attempt(run_dir, 2)
    os.kill(random.choice(pids(run_dir)), signal.SIGKILL)  # a worker: all are started again
    wait_for_attempt(run_dir, 3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    output = finish(process)
    assert process.returncode == 75, output
    assert "sisa-scale resume" in output
    of_driver, of_worker, interrupted = attempts(run_dir)
    assert (of_driver["outcome"], interrupted["outcome"]) == ("failed", "interrupted")
    assert (of_worker["outcome"], len(of_worker["dead_ranks"])) == ("failed", 1)
    assert "without an exit code" in of_worker["reason"]
    assert of_worker["reason"] in output  # told while it happened
    assert "A worker died or was killed" not in output  # in Ray's eight lines
    assert "A worker died or was killed" in (run_dir / "ray.log").read_text()
    assert of_worker["reached_step"] - interrupted["from_step"] == of_worker["lost_steps"]

    process = start_command("resume", run_dir)
    wait_for_attempt(run_dir, 4)
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does that wants the machine back: to the whole group
    output = finish(process)
    assert process.returncode == 75, output
    newest = attempts(run_dir)[-1]
    assert newest["outcome"] == "preempted"
    assert (run_dir / f"checkpoints/step_{newest['reached_step']:08d}").is_dir()

    process = start_command("resume", run_dir)
    output = finish(process)
    assert process.returncode == 0, output
    # Same machine, world size and kernels: every loss is equal to the last bit.
    assert trace(run_dir) == trace(uninterrupted)


def test_a_run_that_fails_in_a_circle_stops_and_says_why(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SISA_SCALE_FAULTS", "step.before_update@rank1#3=exit")
    process = start_command("train", recipe, f"run_dir={tmp_path}/run", *OVERRIDES)
    output = finish(process)
    assert process.returncode == 5, output
    assert [(each["outcome"], each["reached_step"]) for each in attempts(tmp_path / "run")] == [("failed", 2)] * 3
    assert "3 attempts in a row" in output
    assert "step 3" in output
    assert attempts(tmp_path / "run")[-1]["is_final"]


def test_a_step_is_replayed_from_the_checkpoint_before_it(uninterrupted: Path) -> None:
    code, output = run_command("replay", uninterrupted, "--step", "9", "--json")
    assert code == 0, output
    found = json.loads(output)
    assert (found["weights_after_step"], found["digest_is_equal"]) == (8, True)
    recorded = next(line for line in metrics(uninterrupted) if line["step"] == 9)
    replayed = {each["precision"]: each for each in found["passes"]}
    # As the run computed it, but sequence by sequence on one process: sums in another order.
    assert replayed["bf16"]["loss"] == pytest.approx(recorded["loss"], abs=2e-3)
    assert replayed["bf16"]["gradient_norm"] == pytest.approx(recorded["gradient_norm"], rel=1e-2)
    assert replayed["fp32"]["loss"] == pytest.approx(recorded["loss"], abs=1e-2)
    assert len(found["sequences"]) == len(replayed["fp32"]["sequences"]) == 8
    assert all(row["text"] for row in found["sequences"])
    half = json.loads(run_command("replay", uninterrupted, "--step", "9", "--json", "--rank-batch", "1/2")[1])
    assert [row["text"] for row in half["sequences"]] == [row["text"] for row in found["sequences"][4:]]
    assert half["passes"][0]["sequences"][0]["loss"] == pytest.approx(found["passes"][0]["sequences"][4]["loss"])
