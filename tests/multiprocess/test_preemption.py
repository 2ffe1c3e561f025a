"""A signal to any worker saves a checkpoint and ends all of them with the code that puts a job back into the queue."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import metrics
from ranks import events, finish_ranks, start_ranks, wait_for

from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.runs.exit_codes import PREEMPTED

SLOW = "step.before_backward=sleep:0.1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_the_run_continues_as_if_it_had_not_come(
    runs: Path, write_recipe: Callable[[Path], Path], tmp_path: Path, number: signal.Signals
) -> None:
    run_dir = tmp_path / "run"
    ranks = start_ranks(2, write_recipe(tmp_path), f"run_dir={run_dir}", faults=SLOW, folder=tmp_path / "first")
    log = run_dir / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.read_text().count("\n") >= 3, ranks)
    ranks[1].send_signal(number)
    assert finish_ranks(ranks) == [PREEMPTED, PREEMPTED]
    last = metrics(run_dir)[-1]["step"]
    assert 3 <= last < 12
    assert CheckpointStore(run_dir).steps()[-1] == last
    asked = events(run_dir, "stop_requested")[0]
    assert (asked["step"], asked["reason"]) == (last, "preemption")

    assert finish_ranks(start_ranks(2, run_dir, folder=tmp_path / "second")) == [0, 0]
    found, expected = metrics(run_dir), metrics(runs / "stage1")
    assert [line["step"] for line in found] == list(range(1, 13))
    assert [line["stream_digest"] for line in found] == [line["stream_digest"] for line in expected]
    assert [line["loss"] for line in found] == [line["loss"] for line in expected]
