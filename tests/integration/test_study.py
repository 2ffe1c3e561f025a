"""A whole study with real processes: killed, submitted again, and the same as one that nobody touched."""

import csv
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import finish, metrics, run_command, start_command
from study_cases import STUDY, write_study

TUNING, PIECES = 6, 14
# Far apart, so that the one in the middle is the best of ten steps, whatever they do.
SWEPT = STUDY + "learning_rate: {{sweep: [1e-4, 1e-2, 1.0], at: {{size: s, tokens: 2560}}, exponent: 0.5}}\n"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    directory = tmp_path_factory.mktemp("unbroken")
    code, output = run_command(
        "study", "submit", write_study(directory, dataset, SWEPT), "--to", "local", "--at-once", "2"
    )
    assert code == 0, output
    return directory / "study"


def table(study_dir: Path) -> dict[str, dict[str, str]]:
    code, output = run_command("study", "collect", study_dir)
    assert code == 0, output
    with (study_dir / "runs.csv").open() as stream:
        return {row["run_id"]: {k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)}


def states(study_dir: Path) -> dict[str, dict[str, Any]]:
    code, output = run_command("study", "status", study_dir, "--json")
    assert code == 0, output
    return {row["name"]: row for row in json.loads(output)}


def test_killed_and_submitted_again_gives_the_same_table(
    tmp_path: Path, dataset: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, study_dir = write_study(tmp_path, dataset, SWEPT), tmp_path / "study"
    code, output = run_command("study", "submit", study, "--to", "local", "--only", "sisa-m-5.12K")
    assert code == 2, output
    assert "its learning rate comes from tuning trials" in output
    code, output = run_command("study", "submit", study, "--to", "local", "--only", "tune-sisa-s-2.56K-lr0.01")
    assert code == 0, output
    with monkeypatch.context() as patch:  # the next trial waits in its seventh step, longer than the test will
        patch.setenv("SISA_SCALE_FAULTS", "data.before_batch#7=sleep:300")
        process = start_command("study", "submit", study, "--to", "local")
    logs = study_dir / "runs"
    wait_for(lambda: any(path.read_bytes().count(b"\n") == 6 for path in logs.glob("*/metrics.jsonl")))
    workers = open_processes(study_dir)
    assert len(workers) == 1
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), seconds=30)
    finish(process)
    before = Counter(row["state"] for row in states(study_dir).values())
    assert (before["finished"], before["stopped"]) == (1, 1)
    code, output = run_command("study", "submit", study, "--to", "local")
    assert code == 0, output
    assert "13 of 14 trials to run" in output
    rows = table(study_dir)
    assert len(rows) == PIECES
    assert sum(row["excluded"] != "" for row in rows.values()) == TUNING
    assert rows == table(unbroken)
    assert 1e-4 < tuned_rate(study_dir, "sisa") < 1.0
    assert float(rows["sisa-s-5.12K"]["learning_rate"]) == pytest.approx(tuned_rate(study_dir, "sisa"), rel=1e-3)


def test_branch_equals_an_independent_run(tmp_path: Path, dataset: Path, unbroken: Path) -> None:
    study = write_study(tmp_path, dataset)
    only = ("--only", "sisa-m-2.56K")
    rate = f"{tuned_rate(unbroken, 'sisa'):.4g}"
    rule = f"learning_rate={{value: {rate}, at_d_model: 16, exponent: 0.5}}"
    code, output = run_command("study", "submit", study, "--to", "local", "schedule.trunk=false", rule, *only)
    assert code == 0, output
    alone, branch, trunk = (
        metrics(path)
        for path in (
            tmp_path / "study/runs/sisa-m-2.56K",
            unbroken / "runs/sisa-m-2.56K",
            unbroken / "runs/sisa-m-5.12K",
        )
    )
    keys = ("step", "tokens", "loss", "gradient_norm", "learning_rate", "stream_digest")
    assert [{k: line[k] for k in keys} for line in branch] == [{k: line[k] for k in keys} for line in alone]
    assert [line["loss"] for line in trunk[:8]] == [line["loss"] for line in alone[:8]]
    assert trunk[9]["learning_rate"] != alone[9]["learning_rate"]  # the cooldown of the branch
    scores = [(path / "evaluations.jsonl").read_text() for path in (tmp_path / "study/runs/sisa-m-2.56K",
                                                                  unbroken / "runs/sisa-m-2.56K")]  # fmt: skip
    assert json.loads(scores[0].splitlines()[-1])["scores"] == json.loads(scores[1].splitlines()[-1])["scores"]


def test_failed_trial_is_named_left_alone_and_rerun_alone(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, study_dir, trial = write_study(tmp_path, dataset), tmp_path / "study", "transformer-s-5.12K"
    code, output = run_command("study", "submit", study, "--to", "local", "--only", "transformer-s-2.56K")
    assert code == 5
    assert f"no checkpoint of step 8 of its trunk {trial}" in output
    monkeypatch.setenv("SISA_SCALE_FAULTS", "evaluation.before_score=raise_eio")
    monkeypatch.setenv("SISA_SCALE_FAULTS_FIRED", str(tmp_path / "fired"))
    (tmp_path / "fired").mkdir()
    code, output = run_command("study", "submit", study, "--to", "local", "--only", trial)
    assert code == 5, output
    assert f"{trial}: found rank 0: OSError" in output
    assert states(study_dir)[trial]["state"] == "failed"
    code, output = run_command("study", "submit", study, "--to", "local", "--dry-run")
    assert code == 0
    assert f"{trial} has failed" in output
    assert f"{trial}: trunk" not in output
    code, output = run_command("study", "submit", study, "--to", "local", "--only", trial)
    assert code == 0, output
    assert states(study_dir)[trial]["state"] == "finished"


def tuned_rate(study_dir: Path, architecture: str) -> float:
    rows = json.loads((study_dir / "tuning.json").read_text())["architectures"]
    return float(next(row["optimum"]["rate"] for row in rows if row["architecture"] == architecture))


def open_processes(study_dir: Path) -> list[int]:
    """Return the workers of attempts that have noted no end."""
    attempts = [json.loads(path.read_text().splitlines()[-1]) for path in study_dir.glob("runs/*/attempts.jsonl")]
    return [int(p.split(":")[1]) for attempt in attempts if attempt["ended"] is None for p in attempt["processes"]]


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
