"""Runs whose saves are slow, fail, or are cut short, on real workers."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import metrics, start_workers, try_workers

from sisa_scale.checkpoint.manifest import read_manifest, verify_files
from sisa_scale.checkpoint.slices import CheckpointReader
from sisa_scale.checkpoint.store import CheckpointStore, find_checkpoint
from sisa_scale.errors import CheckpointError
from sisa_scale.faults import FIRED_VARIABLE, VARIABLE
from sisa_scale.launching.going_back import go_back
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.start import reopen
from sisa_scale.runs.attempts import read_attempts
from sisa_scale.runs.logs.evaluations import read_scores


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def checksums(run_dir: Path) -> dict[int, str]:
    """Return a hash over all weights and moments of every checkpoint; the random states are each process's own."""
    store, found = CheckpointStore(run_dir), {}
    for step in store.steps():
        manifest = read_manifest(store.path(step))
        verify_files(store.path(step), manifest.files)
        reader, digest = CheckpointReader(store.path(step), manifest), hashlib.sha256()
        for kind, name in sorted(manifest.tensors):
            digest.update(reader.read(kind, name).numpy())
        found[step] = digest.hexdigest()
    return found


def trace(run_dir: Path) -> list[tuple[int, str, float]]:
    return [(line["step"], line["stream_digest"], line["loss"]) for line in metrics(run_dir)]


def test_the_last_checkpoint_can_be_left_out(runs: Path) -> None:
    assert CheckpointStore(runs / "one-worker").steps() == [5, 10, 12]
    assert CheckpointStore(runs / "without-last").steps() == [5, 10]
    assert trace(runs / "without-last") == trace(runs / "one-worker")


def test_the_clock_of_one_worker_saves_on_all(runs: Path) -> None:
    assert [line["step"] for line in events(runs / "by-clock", "checkpoint")] == list(range(1, 13))
    assert CheckpointStore(runs / "by-clock").steps() == [4, 8, 11, 12]
    assert trace(runs / "by-clock") == trace(runs / "stage1")


def test_what_is_written_beside_training_is_the_state_of_its_step(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = [f"checkpoint.part.before_write@rank{rank}=sleep:{rank + 0.5}" for rank in range(2)]
    monkeypatch.setenv(VARIABLE, ";".join(waits))
    jobs = [
        ("train", runs / "tiny.yaml", [f"run_dir={tmp_path}/{mode}", f"checkpoint.asynchronous={mode == 'beside'}"])
        for mode in ("beside", "between")
    ]
    start_workers(2, jobs)
    assert trace(tmp_path / "beside") == trace(tmp_path / "between") == trace(runs / "stage1")
    expected = checksums(runs / "stage1")
    assert list(expected) == [5, 10, 12]
    assert checksums(tmp_path / "beside") == checksums(tmp_path / "between") == expected
    for mode, is_stalled in (("beside", [False, False, True]), ("between", [True, True, True])):
        saves = events(tmp_path / mode, "checkpoint")
        assert [line["step"] for line in saves] == [5, 10, 12]
        assert [line["stall_seconds"] >= line["write_seconds"] >= 1.5 for line in saves] == is_stalled
        assert all(line["bytes"] > 12 * 150_000 for line in saves)


def test_killed_beside_training_and_resumed(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, run_dir = runs / "tiny.yaml", tmp_path / "run"
    monkeypatch.setenv(VARIABLE, "checkpoint.part.in_write@rank1#5=kill")
    monkeypatch.setenv(FIRED_VARIABLE, str(tmp_path))
    overrides = [f"run_dir={run_dir}", "zero_stage=1"]
    assert try_workers(2, [("train", recipe, overrides)]).returncode != 0
    assert (tmp_path / "0").exists()
    assert CheckpointStore(run_dir).steps() == [5]
    assert [line["step"] for line in metrics(run_dir)][-1] >= 10
    start_workers(2, [("train", recipe, overrides)])  # inherits the fault, which has acted
    assert trace(run_dir) == trace(runs / "stage1")
    assert checksums(run_dir) == checksums(runs / "stage1")
    assert not list((run_dir / "checkpoints").glob(".*"))


def test_a_damaged_checkpoint_is_set_aside_and_its_steps_are_taken_again(runs: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(runs / "stage1", run_dir)
    store = CheckpointStore(run_dir)
    (store.path(12) / "manifest.json").write_text("{")
    part = store.path(10) / "rank_00001.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    errors = start_workers(2, [("train", runs / "tiny.yaml", [f"run_dir={run_dir}"])])
    assert "the checkpoint of step 10 is damaged" in errors
    assert "the run goes on from step 5, 5 steps are taken again" in errors
    assert trace(run_dir) == trace(runs / "stage1")
    assert checksums(run_dir) == checksums(runs / "stage1")
    found = events(run_dir, "checkpoint_damaged")
    assert [(line["step"], line["resumed_from_step"], line["lost_steps"]) for line in found] == [(12, 5, 7), (10, 5, 5)]
    assert all(Path(line["moved_to"]).is_dir() for line in found)
    assert "rank_00001.safetensors" in found[1]["problems"][0]


def test_a_person_goes_back_to_a_step_and_what_lies_behind_it_is_kept(runs: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(runs / "stage1", run_dir)
    (run_dir / "wandb_id").write_text("one")
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7; there are checkpoints of the steps 5, 10, 12"):
        reopen(run_dir, (), from_step=7)
    part = CheckpointStore(run_dir).path(12) / "rank_00001.safetensors"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"a damaged checkpoint; there are checkpoints of the steps 5, 10"):
        reopen(run_dir, (), from_step=12)
    part.write_bytes(whole)

    told: list[str] = []
    go_back(reopen(run_dir, (), from_step=10), 10, Reporter(told.append))
    go_back(reopen(run_dir, (), from_step=5), 5, Reporter(told.append))  # before anything was taken again
    assert [words.partition(" to ")[0] for words in told if "went back" in words] == [
        "a person went back from step 12",
        "a person went back from step 12",
    ]
    assert CheckpointStore(run_dir).steps() == [5]
    kept = [[line["step"] for line in metrics(run_dir / f"abandoned/000{n}")] for n in (1, 2)]
    assert kept == [[11, 12], list(range(6, 13))]
    assert (run_dir / "abandoned/0001/wandb_id").read_text() == "one"

    start_workers(2, [("train", runs / "tiny.yaml", [f"run_dir={run_dir}"])])
    assert read_attempts(run_dir)[-1].from_step == 5
    assert trace(run_dir) == trace(runs / "stage1")
    assert checksums(run_dir) == checksums(runs / "stage1")
    assert {score.step for score in read_scores(run_dir)} == {12}
    for step in (10, 12):
        (moved_to,) = (e["moved_to"] for e in events(run_dir, "checkpoint_abandoned") if e["step"] == step)
        assert find_checkpoint(moved_to)[1].step == step
    before = len(told)
    go_back(reopen(run_dir, (), from_step=12), 12, Reporter(told.append))  # it is the newest
    assert (len(told), CheckpointStore(run_dir).steps()) == (before, [5, 10, 12])


def test_if_all_are_damaged_the_run_ends_and_nothing_is_touched(runs: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(runs / "stage1", run_dir)
    for step in (5, 10, 12):
        (CheckpointStore(run_dir).path(step) / "rank_00000.safetensors").unlink()
    done = try_workers(2, [("train", runs / "tiny.yaml", [f"run_dir={run_dir}"])])
    assert done.returncode != 0
    assert "3 checkpoints, all of them damaged" in done.stderr
    assert CheckpointStore(run_dir).steps() == [5, 10, 12]
    assert trace(run_dir) == trace(runs / "stage1")


def test_a_failed_save_is_recorded_and_the_next_is_tried(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "checkpoint.part.after_write@rank1#1=raise_enospc")
    errors = start_workers(2, [("train", runs / "tiny.yaml", [f"run_dir={tmp_path}/run"])])
    assert "step 5: its checkpoint could not be written" in errors
    assert CheckpointStore(tmp_path / "run").steps() == [10, 12]
    (failed,) = events(tmp_path / "run", "checkpoint_failed")
    assert failed["step"] == 5
    assert "a full disk" in failed["problems"][0]
    assert trace(tmp_path / "run") == trace(runs / "stage1")


def test_a_run_that_cannot_write_its_last_checkpoint_fails_on_every_rank(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "checkpoint.manifest.before_write#3=raise_eio")
    job = ("train", runs / "tiny.yaml", [f"run_dir={tmp_path}/run", "checkpoint.retry_seconds=0"])
    done = try_workers(2, [job])
    assert done.returncode != 0
    assert done.stderr.count("no checkpoint of step 12; the newest is of step 10; the last 2 steps exist nowhere") >= 2
    assert CheckpointStore(tmp_path / "run").steps() == [5, 10]


def test_a_last_checkpoint_is_tried_again(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "checkpoint.manifest.before_write#3=raise_enospc")
    errors = start_workers(2, [("train", runs / "tiny.yaml", [f"run_dir={tmp_path}/run"])])
    assert "step 12: the run waits, and tries its checkpoint every 5 s" in errors
    assert CheckpointStore(tmp_path / "run").steps() == [5, 10, 12]


def test_checkpoints_in_an_object_store(runs: Path, tmp_path: Path) -> None:
    run_dir, url = tmp_path / "run", f"local://{tmp_path}/bucket/of-this-run"
    overrides = [f"run_dir={run_dir}", f"checkpoint.directory={url}", "keep_last=2"]
    start_workers(2, [("train", runs / "tiny.yaml", [*overrides, "total=10 steps", "schedule.decay=1 steps"])])
    store = CheckpointStore(run_dir, url)
    assert store.steps() == [5, 10]
    assert not (run_dir / "checkpoints").exists()
    start_workers(1, [("train", runs / "tiny.yaml", overrides)])
    assert store.steps() == [10, 12]
    assert read_manifest(store.location(12)).world_size == 1
    assert [line["step"] for line in metrics(run_dir)] == list(range(1, 13))


def test_two_attempts_of_one_run_do_not_mix(runs: Path, tmp_path: Path) -> None:
    """A worker that was stopped in its save wakes up when another attempt has finished the run."""
    run_dir = tmp_path / "run"
    job = json.dumps([["train", str(runs / "tiny.yaml"), [f"run_dir={run_dir}", "workers=1", "floor_seconds=null"]]])
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    environment = {**os.environ, **place, VARIABLE: "checkpoint.commit.before_rename#2=stop"}
    program = Path(__file__).with_name("worker_program.py")
    stale = subprocess.Popen([sys.executable, program, job], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert os.WIFSTOPPED(os.waitpid(stale.pid, os.WUNTRACED)[1])
        assert CheckpointStore(run_dir).steps() == [5]
        start_workers(2, [("train", runs / "tiny.yaml", [f"run_dir={run_dir}"])])
        before = checksums(run_dir)
        assert list(before) == [5, 10, 12]
        stale.send_signal(signal.SIGCONT)
        _, errors = stale.communicate(timeout=120)
    finally:
        stale.kill()
    assert stale.returncode != 0
    assert "A newer attempt of the run has taken over" in errors
    assert checksums(run_dir) == before
    assert find_checkpoint(run_dir)[1].world_size == 2
