import dataclasses
import json
import warnings
from pathlib import Path

import pytest
from run_lines import step_row

from sisa_scale.config import RunConfig, load_config
from sisa_scale.errors import ConfigError, SisaScaleWarning
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.logs.metrics import read_steps
from sisa_scale.runs.problems import RunDirectoryError


@pytest.fixture
def config() -> RunConfig:
    return load_config("quickstart").config


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "deep" / "run")
    run.create()
    return run


def steps(run: RunDirectory) -> list[int]:
    return [row.step for row in read_steps(run.path)]


def test_a_directory_holds_one_run(run: RunDirectory, config: RunConfig) -> None:
    run.create()  # nothing was recorded yet
    run.record(config, {}, {})
    with pytest.raises(ConfigError, match=f"sisa-scale resume {run.path}"):
        run.create()


def test_the_record_says_what_the_run_is(run: RunDirectory, config: RunConfig) -> None:
    run.record(config, {"train_batch_size": 16}, {"data_fingerprint": "f" * 64})
    assert load_config(run.config_path).config == config
    assert json.loads((run.path / "deepspeed.json").read_text()) == {"train_batch_size": 16}
    assert json.loads((run.path / "provenance.json").read_text()) == {"data_fingerprint": "f" * 64}


def begin(run: RunDirectory, config: RunConfig) -> int:
    return run.begin_attempt(config, ["node:1", "node:2"], ["a", "b"])


def test_attempts_tell_how_they_ended(run: RunDirectory, config: RunConfig) -> None:
    assert (run.attempts(), run.current_attempt(), run.close_attempt()) == ([], 0, None)
    assert begin(run, config) == 1
    run.take_up(0)
    assert run.attempts()[0].outcome is None
    for step in (1, 2, 3):
        run.add_step(step_row(step))
    begin(run, config)  # the first was killed with everything else
    run.take_up(1)
    run.event("workers_lost", ranks=[1], reason="rank 1 (node:2): exit code 9")
    run.close_attempt()
    begin(run, config)
    run.take_up(1)
    run.end_attempt("finished")
    run.close_attempt()  # it has an end
    told = [(a.attempt, a.from_step, a.reached_step, a.outcome, a.dead_nodes) for a in run.attempts()]
    assert told == [(1, 0, 3, "failed", []), (2, 1, 1, "failed", ["b"]), (3, 1, 1, "finished", [])]
    assert [(a.lost_steps, a.lost_seconds) for a in run.attempts()] == [(2, 1.0), (0, 0.0), (0, 0.0)]
    assert "no process left a word" in run.attempts()[0].reason
    assert run.attempts()[1].reason == "rank 1 (node:2): exit code 9"
    assert all(a.ended >= a.resumed >= a.started for a in run.attempts()[1:])
    assert all((a.world_size, a.zero_stage, a.processes) == (2, 1, ["node:1", "node:2"]) for a in run.attempts())
    assert steps(run) == [1]


def test_an_event_after_a_torn_line_stands_on_a_line_of_its_own(run: RunDirectory) -> None:
    run.event("error", rank=0, error="first")
    with (run.path / "events.jsonl").open("a") as stream:
        stream.write('{"event": "to')
    run.event("rollback", step=3, reason="second", after_rollback="retry")
    assert [(event["event"], event.get("step")) for event in run.events()] == [("error", None), ("rollback", 3)]


def test_the_last_step_of_a_long_log_is_found(run: RunDirectory) -> None:
    for step in range(1, 2001):
        run.add_step(step_row(step))
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 2001')
    assert run.last_step() == 2000


def test_every_attempt_keeps_its_record(run: RunDirectory, config: RunConfig) -> None:
    begin(run, config)
    run.record(config, {}, {"command": ["first"]})
    changed = dataclasses.replace(config, description="changed")
    begin(run, config)
    run.record(changed, {}, {"command": ["second"]})
    kept = [load_config(run.path / "attempts" / number / "config.yaml").config for number in ("0001", "0002")]
    assert kept == [config, changed]
    assert load_config(run.config_path).config == changed
    commands = [
        json.loads((run.path / f"attempts/{n}/provenance.json").read_text())["command"] for n in ("0001", "0002")
    ]
    assert commands == [["first"], ["second"]]


def test_lines_that_the_disk_refuses_wait_and_come_in_their_order(run: RunDirectory, config: RunConfig) -> None:
    begin(run, config)
    log, events = run.path / "metrics.jsonl", run.path / "events.jsonl"
    run.add_step(step_row(1))
    log.rename(run.path / "kept")
    log.symlink_to("/dev/full")
    with pytest.warns(SisaScaleWarning, match="full disk.*wait in memory"):
        run.add_step(step_row(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        run.event("stop_requested", step=2, reason="interrupt", seconds_left=None)
        run.add_step(step_row(3))
    with pytest.raises(RunDirectoryError, match="full disk"):
        run.sync_logs()  # no checkpoint of these steps counts
    assert not events.exists()
    log.unlink()
    (run.path / "kept").rename(log)
    with pytest.warns(SisaScaleWarning, match="are written"):
        run.add_step(step_row(4))
    run.sync_logs()
    assert steps(run) == [1, 2, 3, 4]
    assert len(events.read_text().splitlines()) == 1
