"""A real Slurm: submitted, warned, saved, requeued, resumed and finished, as if nothing had happened."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import SISA_SCALE, metrics, run_command, start_workers
from slurm_cluster import SlurmCluster

from sisa_scale.launching.submission import newest_submission

STEPS = 60
TOTAL = f"total={STEPS} steps"
LONG_SECONDS = 500  # for a machine with much else to do; alone it takes a minute
OVERRIDES = ("checkpoint.every_steps=30", "evaluation.tasks=[]")
Trace = list[tuple[int, float, str]]
pytestmark = pytest.mark.timeout(3 * LONG_SECONDS)


@pytest.fixture
def submit(slurm: SlurmCluster, recipe: Path, tmp_path: Path) -> Iterator[Callable[..., tuple[int, str]]]:
    """Run `sisa-scale submit` on the login host, with a profile of the simulated cluster; no job outlives the test."""
    profile = tmp_path / "simulated.yaml"
    settings = {"node_scratch": str(slurm.scratch), "node_local_paths": [], "venv": sys.prefix, "nodes": 2}
    settings |= {"cpus_per_worker": 1, "time_limit": "00:20:00", "object_store_bytes": 90_000_000}
    profile.write_text("\n".join(["extends: cpu", *(f"{key}: {json.dumps(value)}" for key, value in settings.items())]))

    def run(*arguments: str | Path, recipe: str | Path = recipe) -> tuple[int, str]:
        options = ["submit", str(recipe), "--to", "slurm", "--profile", str(profile), *OVERRIDES]
        return on_login(slurm, *options, *map(str, arguments), cwd=tmp_path)

    yield run
    slurm.run("scancel", "--user=root")
    wait_for(lambda: slurm.run("squeue", "--noheader").stdout.strip() == "", "an empty queue")


@pytest.fixture
def whole(recipe: Path, tmp_path: Path) -> Path:
    """The same run on this machine, uninterrupted, without Ray."""
    start_workers(2, [("train", recipe, [f"run_dir={tmp_path}/whole", *OVERRIDES, TOTAL])])
    return tmp_path / "whole"


def on_login(slurm: SlurmCluster, *arguments: str, cwd: Path) -> tuple[int, str]:
    done = slurm.run(*SISA_SCALE, *arguments, cwd=cwd, timeout=LONG_SECONDS)
    return done.returncode, done.stdout + done.stderr


def wait_for(condition: Callable[[], bool], what: str | Callable[[], str], seconds: float = LONG_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.2)


def trace(run_dir: Path) -> Trace:
    return [(line["step"], line["loss"], line["stream_digest"]) for line in metrics(run_dir)]


def num_steps(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def outcomes(run_dir: Path) -> list[str]:
    return [json.loads(line)["outcome"] for line in (run_dir / "attempts.jsonl").read_text().splitlines()]


def test_warned_job_saves_requeues_itself_and_ends_as_an_uninterrupted_run(
    slurm: SlurmCluster, submit: Callable[..., tuple[int, str]], whole: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "it's a $(touch injected) run"
    code, output = submit(f"run_dir={json.dumps(str(run_dir))}", TOTAL)
    assert code == 0, output
    submission = newest_submission(run_dir)
    log = Path(submission.folder) / "output.log"
    wait_for(lambda: num_steps(run_dir) >= 3, lambda: f"the third step\n{read(log)}")
    slurm.run("scancel", "--batch", "--signal=USR1", submission.job_id)  # what --signal=B:USR1@N sends
    code, output = on_login(slurm, "logs", str(run_dir), "--follow", cwd=tmp_path)
    assert code == 0, output
    assert outcomes(run_dir) == ["preempted", "finished"], output
    assert "back into the queue" in output
    assert "resuming" in output
    assert len(trace(run_dir)) == STEPS
    assert trace(run_dir) == trace(whole)
    assert not list(tmp_path.rglob("injected"))
    assert not list(run_dir.rglob("*token*"))


def test_array_runs_a_study_while_a_time_limit_warns_and_cancel_saves(
    slurm: SlurmCluster, submit: Callable[..., tuple[int, str]], recipe: Path, tmp_path: Path
) -> None:
    code, output = submit("--set", "nodes=1", "--set", "warning_seconds=60", "name=long", "total=1000000 steps")
    assert code == 0, output
    long = tmp_path / "runs" / "long"
    long_log = long / "jobs" / "0001" / "output.log"
    study = tmp_path / "study.txt"
    study.write_text(f"# two runs\n{recipe} name=one 'total=6 steps'\n{recipe} name='two, 2' 'total=7 steps'\n")
    code, output = submit("--study", "--set", "nodes=1", "schedule.warmup=1 steps", recipe=study)
    assert code == 0, output
    # Only once the run works is its time cut short: Slurm itself then sends the signal of --signal=B:USR1@60.
    wait_for(lambda: num_steps(long) >= 3, lambda: f"the third step\n{read(long_log)}")
    job = newest_submission(long).job_id
    elapsed = int(slurm.run("squeue", "--noheader", f"--jobs={job}", "--format=%M").stdout.split(":")[0])
    cut = slurm.run("scontrol", "update", f"jobid={job}", f"timelimit={elapsed + 2}")
    assert cut.returncode == 0, cut.stderr
    wait_for(lambda: "back into the queue" in read(long_log), lambda: read(long_log))
    assert outcomes(long) == ["preempted"]
    code, output = on_login(slurm, "cancel", "runs/long", cwd=tmp_path)
    assert code == 0, output
    code, output = on_login(slurm, "logs", "runs/study", "--follow", cwd=tmp_path)
    assert code == 0, output
    for name, num in (("one", 6), ("two, 2", 7)):
        assert [line["step"] for line in metrics(tmp_path / "runs" / name)] == list(range(1, num + 1))
        assert outcomes(tmp_path / "runs" / name) == ["finished"]
    wait_for(lambda: slurm.run("squeue", "--noheader").stdout.strip() == "", lambda: read(long_log))
    assert "ended with" not in read(long_log)  # it was cancelled, and no start of it failed


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["--set", "nodes=3"], "node"),
        (["--set", "gpus_per_node=8", "--set", "workers_per_node=null", "device=cpu"], "GPUs"),
        (["--set", "partition=nowhere"], "one of main, urgent"),
        (["--set", "node_local_paths=[/tmp]"], "a path that every node sees"),
        (["workers=3"], "workers_per_node"),
    ],
)
def test_what_the_cluster_cannot_do_is_one_error_and_nothing_is_queued(
    settings: list[str], expected: str, slurm: SlurmCluster, submit: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, output = submit(*settings, "micro_batch_sequences=1", "global_batch_tokens=6144")
    assert code == 2, output
    assert expected in output
    assert slurm.run("squeue", "--noheader").stdout == ""
    assert not (tmp_path / "runs").exists()


def test_a_machine_without_slurm_says_so(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = ["--set", "node_local_paths=[]", "--set", "cpus_per_worker=1", f"run_dir={tmp_path}/run"]
    code, output = run_command("submit", recipe, "--to", "slurm", "--profile", "cpu", *settings)
    assert code == 2, output
    assert "sinfo: found no such command here" in output
