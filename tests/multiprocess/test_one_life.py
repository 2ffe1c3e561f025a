"""A copied run goes on in its own directory, in one life at a time; and a stop that comes early is not lost."""

import json
import shutil
import signal
from pathlib import Path

from processes import metrics, run_command
from ranks import finish_ranks, start_ranks, wait_for

from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.runs.attempts import read_attempts
from sisa_scale.runs.exit_codes import PREEMPTED
from sisa_scale.runs.owner import read_owner

LONGER = ["total=4000 steps", "decay=0 steps", "checkpoint.every_steps=0"]


def test_a_copy_has_one_life_at_a_time_and_the_original_is_left_alone(runs: Path, tmp_path: Path) -> None:
    original, run_dir = runs / "one-worker", tmp_path / "copy"
    before = {path: path.read_bytes() for path in original.rglob("*") if path.is_file()}
    shutil.copytree(original, run_dir)
    first = start_ranks(1, run_dir, *LONGER, folder=tmp_path / "first")
    wait_for(lambda: len((run_dir / "metrics.jsonl").read_text().splitlines()) >= 14, first)

    code, output = run_command("resume", run_dir)
    assert code == 2
    assert f"process {first[0].pid} on" in output
    assert "--take-over" in output

    second = start_ranks(1, run_dir, *LONGER, "--take-over", folder=tmp_path / "second")
    wait_for(lambda: getattr(read_owner(run_dir), "pid", None) == second[0].pid, second)
    assert finish_ranks(first) == [5]
    assert "has taken over" in (tmp_path / "first" / "rank_0.log").read_text()
    second[0].send_signal(signal.SIGTERM)  # it has not begun its first step
    assert finish_ranks(second) == [PREEMPTED]
    outcomes = [(attempt.outcome, attempt.reason) for attempt in read_attempts(run_dir)]
    assert [outcome for outcome, _ in outcomes] == ["finished", "interrupted", "preempted"]
    assert "took the run over" in str(outcomes[1][1])
    steps = [line["step"] for line in metrics(run_dir)]
    assert steps == sorted(set(steps))
    assert CheckpointStore(run_dir).steps()[:3] == CheckpointStore(original).steps()
    assert json.loads((run_dir / "attempts/0002/provenance.json").read_text())["command"][1] == "worker"
    assert {path: path.read_bytes() for path in original.rglob("*") if path.is_file()} == before
