from collections.abc import Callable
from pathlib import Path

import pytest

from sisa_scale.errors import DataError
from sisa_scale.runs.files import read_run

WriteRun = Callable[..., Path]


def test_a_whole_run(write_run: WriteRun) -> None:
    run = read_run(write_run(num_steps=12))
    assert run.name == "sisa-152m"
    assert [row.step for row in run.steps] == list(range(1, 13))
    assert len(run.monitors[-1].lambda_) == 6
    assert [attempt.outcome for attempt in run.attempts] == ["interrupted", "finished"]
    assert run.scores[-1].note == "skipped: too long"
    assert run.notes == []


def test_only_the_config_is_needed(write_run: WriteRun) -> None:
    path = write_run(num_steps=0)
    (path / "provenance.json").unlink()
    (path / "config.yaml").write_text("width: 3\n")
    run = read_run(path)
    assert run.name == path.name
    assert (run.steps, run.monitors, run.scores, run.attempts) == ([], [], [], [])
    assert run.notes == ["provenance.json is missing"]


def test_not_a_run_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.yaml: found no such file"):
        read_run(tmp_path)


@pytest.mark.parametrize("tail", ['{"step": 13, "tok', "\0\0\0", '{"step": 13, "loss": 3.'])
def test_a_torn_last_line_is_noted(write_run: WriteRun, tail: str) -> None:
    path = write_run(num_steps=12)
    with (path / "metrics.jsonl").open("a") as stream:
        stream.write(tail)
    run = read_run(path)
    assert len(run.steps) == 12
    assert run.notes == ["metrics.jsonl:13 is torn and left out; the process died while writing it"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "monitors.jsonl", "evaluations.jsonl", "attempts.jsonl"])
@pytest.mark.parametrize("line", ['{"step": 1, "tok', "[1, 2]", "{}", '{"step": "x"}'])
def test_any_other_bad_line_is_an_error_with_its_place(write_run: WriteRun, name: str, line: str) -> None:
    path = write_run(num_steps=12)
    lines = (path / name).read_text().splitlines()
    (path / name).write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    with pytest.raises(DataError, match=rf"{name}:2"):
        read_run(path)


@pytest.mark.parametrize(("name", "text"), [("config.yaml", "a: [1"), ("config.yaml", "- 1"), ("provenance.json", "{")])
def test_bad_single_files(write_run: WriteRun, name: str, text: str) -> None:
    path = write_run(num_steps=0)
    (path / name).write_text(text)
    with pytest.raises(DataError, match=name):
        read_run(path)


def test_steps_repeated_after_a_resume_count_once(write_run: WriteRun) -> None:
    path = write_run(num_steps=12)
    lines = (path / "metrics.jsonl").read_text().splitlines()
    repeated = lines[8].replace('"attempt": 2', '"attempt": 7').replace('"loss": ', '"loss": 9')
    (path / "metrics.jsonl").write_text("\n".join([*lines, repeated]) + "\n")
    run = read_run(path)
    assert [row.step for row in run.steps] == list(range(1, 13))
    assert run.steps[8].attempt == 7
