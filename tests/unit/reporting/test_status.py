import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sisa_scale.checkpoint.manifest import FileInfo, Manifest, SliceInfo, write_manifest
from sisa_scale.files import sha256_file
from sisa_scale.reporting.status import Status, read_status
from sisa_scale.runs.owner import Life

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat()


def attempt(number: int, started: float, ended: float | None, outcome: str | None, **more: Any) -> dict[str, Any]:
    line = {"attempt": number, "world_size": 2, "zero_stage": 1, "started": ago(started), "resumed": ago(started - 5)}
    return line | {"ended": ended and ago(ended), "outcome": outcome, "reason": None, "from_step": 0} | more


def append(run_dir: Path, log: str, *lines: dict[str, Any]) -> None:
    with (run_dir / log).open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)


def beat(run_dir: Path, number: int, rank: int, age: float, phase: str = "step", seconds: float = 0.4) -> None:
    directory = run_dir / "diagnostics" / f"attempt_{number:04d}"
    directory.mkdir(parents=True, exist_ok=True)
    line = {"rank": rank, "host": "h", "pid": 1, "phase": phase, "step": 4, "phase_seconds": seconds, "where": "x"}
    (directory / f"heartbeat_{rank}.json").write_text(json.dumps(line | {"in_collective": False, "time": ago(age)}))


@pytest.fixture
def run_dir(tmp_path: Path, recipe: Path) -> Path:
    """A run of four of twelve steps."""
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "config.yaml").write_text(recipe.read_text())
    line = {"loss": 5.0, "learning_rate": 1e-3, "gradient_norm": 1.0, "tokens_per_second": 2048.0, "mfu": None}
    for step in (1, 2, 3, 4):
        line |= {"step": step, "tokens": 1024 * step, "step_seconds": 0.5, "data_wait_seconds": 0.1}
        append(directory, "metrics.jsonl", line | {"attempt": 1, "time": ago(100 - step)})
    return directory


def test_a_copy_of_a_run_at_work_is_not_at_work(run_dir: Path, tmp_path: Path) -> None:
    append(run_dir, "attempts.jsonl", attempt(1, 100, None, None))
    append(
        run_dir, "events.jsonl", {"event": "launch", "time": ago(100), "process": f"{platform.node()}:{os.getpid()}"}
    )
    with Life(run_dir):
        beat(run_dir, 1, 0, 1)
        shutil.copytree(run_dir, tmp_path / "copy")
        assert read_status(run_dir, now=NOW).state == "running"
    found = read_status(tmp_path / "copy", now=NOW)
    assert (found.state, found.eta_seconds) == ("silent", None)
    assert "a copy of a run" in found.doing


def checkpoint(run_dir: Path, step: int) -> Path:
    directory = run_dir / "checkpoints" / f"step_{step:08d}"
    directory.mkdir(parents=True)
    part = directory / "rank_00000.safetensors"
    part.write_bytes(b"x" * 64)
    states = {"w": ("exp_avg", "exp_avg_sq")}
    slices = tuple(SliceInfo(kind, "w", 0, 4, part.name) for kind in ("weight", *states["w"]))
    info = FileInfo(part.name, 64, sha256_file(part))
    shapes = {"w": [4]}
    manifest = Manifest(step, 1024 * step, {}, "f", 1, 1, shapes, slices, (info,), optimizer_states=states)
    write_manifest(directory, manifest)
    return part


def status(run_dir: Path, **options: Any) -> Status:
    return read_status(run_dir, now=NOW, **options)


def test_a_run_that_runs(run_dir: Path) -> None:
    append(run_dir, "attempts.jsonl", attempt(1, 100, None, None))
    beat(run_dir, 1, 0, age=1)
    beat(run_dir, 1, 1, age=2, phase="data_wait", seconds=33.0)
    found = status(run_dir)
    assert (found.state, found.step, found.total_steps, found.tokens, found.loss) == ("running", 4, 12, 4096, 5.0)
    assert found.eta_seconds == pytest.approx(8 * 512 / 2048.0)  # at the speed of the last steps
    assert "rank 1, 33.0 s" in found.doing
    assert found.checkpoint is None
    assert found.goodput.seconds["compute"] == pytest.approx(1.6)


def test_a_worker_without_a_sign_of_life_is_named(run_dir: Path) -> None:
    append(run_dir, "attempts.jsonl", attempt(1, 500, None, None))
    beat(run_dir, 1, 0, age=1)
    beat(run_dir, 1, 1, age=90)
    assert "silent: rank 1" in status(run_dir).doing
    beat(run_dir, 1, 0, age=61)
    assert status(run_dir).state == "silent"
    assert status(run_dir).eta_seconds is None


@pytest.mark.parametrize("outcome", ["finished", "preempted", "interrupted", "failed"])
def test_a_run_that_has_ended(run_dir: Path, outcome: str) -> None:
    append(run_dir, "attempts.jsonl", attempt(1, 500, 90, outcome, reason="rank 1 died"))
    found = status(run_dir)
    assert found.state == outcome
    assert ("rank 1 died" in found.doing) == (outcome == "failed")


def test_a_command_that_lives_starts_the_run_again(run_dir: Path) -> None:
    append(run_dir, "attempts.jsonl", attempt(1, 500, 90, "failed", reason="rank 1 died"))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid, state in ((os.getpid(), "starting"), (ended.pid, "failed")):
        append(run_dir, "events.jsonl", {"event": "launch", "time": ago(500), "process": f"{platform.node()}:{pid}"})
        assert status(run_dir).state == state


def test_the_newest_sound_checkpoint_is_shown(run_dir: Path) -> None:
    checkpoint(run_dir, 2)
    damaged = checkpoint(run_dir, 3)
    append(run_dir, "events.jsonl", {"event": "checkpoint", "time": ago(60), "step": 2, "stall_seconds": 1.0})
    assert (found := status(run_dir).checkpoint) is not None and found.step == 3
    damaged.write_bytes(b"y" * 64)
    assert status(run_dir).checkpoint == found  # sizes alone
    verified = status(run_dir, verify=True)
    assert (
        verified.checkpoint and verified.checkpoint.step,
        verified.checkpoint and verified.checkpoint.is_verified,
    ) == (
        2,
        True,
    )
    assert any(damaged.name in warning for warning in verified.warnings)
    damaged.write_bytes(b"y" * 63)
    assert (found := status(run_dir).checkpoint) is not None
    assert (found.step, found.num_bytes, found.seconds_old) == (2, 64, 60.0)


def test_what_a_person_should_know_is_a_warning(run_dir: Path) -> None:
    line = {"tokens": 0, "loss": None, "step_seconds": 0.5, "tokens_per_second": 1.0, "attempt": 1, "time": ago(9)}
    append(run_dir, "metrics.jsonl", line | {"step": 7, "skipped": True})
    append(run_dir, "events.jsonl", {"event": "hang", "time": ago(9), "attempt": 1, "message": "rank 1 is silent"})
    warnings = " ".join(status(run_dir).warnings)
    assert "1 steps changed no weight" in warnings
    assert "2 steps have no line" in warnings
    assert "1 hangs" in warnings
    assert any("rank 1 is silent" in text for _, text in status(run_dir).latest)


def test_the_page_and_the_json_say_the_same_without_torch(run_dir: Path) -> None:
    append(run_dir, "attempts.jsonl", attempt(1, 500, 90, "failed", reason="rank 1 [/a/b.cc:1] died", lost_steps=2))
    program = "import sys; from sisa_scale.cli.main import cli; cli.main(sys.argv[1:], standalone_mode=False)\n"
    program += "assert not {'torch', 'ray', 'matplotlib', 'numpy'} & set(sys.modules)"
    told = [
        subprocess.run(
            [sys.executable, "-c", program, "status", str(run_dir), *options],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for options in ([], ["--json"])
    ]
    assert "rank 1 [/a/b.cc:1] died" in told[0]
    assert f"sisa-scale resume {run_dir}" in told[0]
    value = json.loads(told[1])
    assert (value["state"], value["attempts"][0]["lost_steps"]) == ("failed", 2)
    assert set(value["goodput"]["shares"]) >= {"compute", "lost", "restart"}
