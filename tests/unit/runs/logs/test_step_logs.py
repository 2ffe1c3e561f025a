import json
from pathlib import Path

import pytest

from sisa_scale.runs.logs.jsonl import append_line
from sisa_scale.runs.logs.step_logs import STEP_LOGS, append_data_event, copy_until, rewind, sync_step_logs


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def steps(run_dir: Path, log: str) -> list[int]:
    return [json.loads(line)["step"] for line in (run_dir / log).read_text().splitlines()]


@pytest.mark.parametrize("log", STEP_LOGS)
def test_steps_that_are_taken_again_are_dropped(run_dir: Path, log: str) -> None:
    for step in (1, 2, 3, 4):
        append_line(run_dir / log, {"step": step})
    with (run_dir / log).open("a") as stream:
        stream.write('{"step": 1, "loss": 2.')
    rewind(run_dir, 2)
    assert steps(run_dir, log) == [1, 2]
    append_line(run_dir / log, {"step": 3})
    assert steps(run_dir, log) == [1, 2, 3]
    rewind(run_dir, 0)
    assert steps(run_dir, log) == []


@pytest.mark.parametrize("torn", ["", "\n", "7\n", "{}\n", '{"step": null}\n', '{"st', "\x00\x00\n"])
def test_torn_lines_are_dropped(run_dir: Path, torn: str) -> None:
    append_line(run_dir / "metrics.jsonl", {"step": 1})
    with (run_dir / "metrics.jsonl").open("a") as stream:
        stream.write(torn)
    rewind(run_dir, 5)
    assert steps(run_dir, "metrics.jsonl") == [1]


def test_a_line_torn_before_its_end_is_no_trap(run_dir: Path) -> None:
    (run_dir / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}')
    rewind(run_dir, 2)
    append_line(run_dir / "metrics.jsonl", {"step": 3})
    assert steps(run_dir, "metrics.jsonl") in ([1, 3], [1, 2, 3])


def test_rewinding_needs_no_logs(run_dir: Path) -> None:
    rewind(run_dir, 3)
    assert list(run_dir.iterdir()) == []


def test_a_copy_ends_at_the_step_and_has_a_number_of_its_own(run_dir: Path, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        append_line(run_dir / "metrics.jsonl", {"step": step, "attempt": 4})
        append_data_event(run_dir, step, {"event": "skipped", "step": 99})
    with (run_dir / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"step": 2')
    copy = tmp_path / "copy"
    copy_until(run_dir, copy, 2, attempt=0)
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "attempt": 0}, {"step": 2, "attempt": 0}]
    events = [json.loads(line) for line in (copy / "data_events.jsonl").read_text().splitlines()]
    assert events == [{"event": "skipped", "step": 1}, {"event": "skipped", "step": 2}]
    assert sorted(path.name for path in copy.iterdir()) == ["data_events.jsonl", "metrics.jsonl"]
    sync_step_logs(copy)
