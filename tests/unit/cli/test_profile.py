"""`sisa-scale profile`: what it asks a run, what it refuses, and what it prints of the answer."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sisa_scale.cli.main import run
from sisa_scale.runs.diagnostics import Diagnostics, Heartbeat
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.profile_request import ProfileRequest, request_path, take_profile_request, write_profile_request

GOLDEN = Path(__file__).parents[2] / "golden" / "run_0_1" / "run"


@pytest.fixture
def living(tmp_path: Path) -> Iterator[Path]:
    """A run of two workers that has just given a sign of life."""
    shutil.copytree(GOLDEN, tmp_path / "run")
    attempts = [json.loads(line) for line in (GOLDEN / "attempts.jsonl").read_text().splitlines()]
    attempts[-1] |= {"ended": None, "outcome": None}
    (tmp_path / "run" / "attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in attempts))
    diagnostics = Diagnostics(tmp_path / "run", attempts[-1]["attempt"])
    diagnostics.create()
    diagnostics.beat(Heartbeat(0, "h", 1, "step", 4, 0.1, "x", False, datetime.now(UTC).isoformat()))
    yield tmp_path / "run"
    assert not request_path(tmp_path / "run").exists()


def answer(run_dir: Path, taken: list[ProfileRequest | None], kind: str, **fields: Any) -> threading.Thread:
    """Be the run: take the request and note what came of it."""

    def be_the_run() -> None:
        while not request_path(run_dir).exists():
            time.sleep(0.01)
        taken.append(take_profile_request(run_dir))
        RunDirectory(run_dir).event(kind, step=13, **fields)

    thread = threading.Thread(target=be_the_run, daemon=True)
    thread.start()
    return thread


def test_it_asks_waits_and_prints_the_table(living: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = living / "diagnostics" / "attempt_0001" / "profile_00000013"
    directory.mkdir(parents=True)
    table = {"by_kind_ms": {"matrix products": 12.5}, "longest": [[3.25, 7, "gemm_[bold]x"]]}
    (directory / "kernels_0.json").write_text(json.dumps(table))
    taken: list[ProfileRequest | None] = []
    fields = {"steps": 2, "ranks": [0], "seconds": 1.5, "is_memory": False, "problems": []}
    thread = answer(living, taken, "profile", directory=str(directory.relative_to(living)), **fields)
    assert run(["profile", str(living), "--steps", "2"]) == 0
    thread.join()
    assert taken == [ProfileRequest(2, (0,))]
    printed = capsys.readouterr().out
    assert "traces of 2 steps from 13 on, rank 0" in printed
    assert "training stood still for 1.5 s" in printed
    assert "12.50  matrix products" in printed
    assert "7 x  gemm_[bold]x" in printed


def test_what_the_run_refuses_is_an_error(living: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thread = answer(living, [], "profile_refused", reason="there is no rank 3")
    assert run(["profile", str(living), "--ranks", "all"]) == 2
    thread.join()
    assert "there is no rank 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ranks", "0,2"], "the run has ranks 0 to 1"),
        (["--ranks", "x"], "write them as 0,3, or all"),
        (["--memory"], "a memory snapshot is of a GPU"),
    ],
)
def test_what_cannot_be_is_said_before_the_run_is_asked(
    arguments: list[str], words: str, living: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["profile", str(living), *arguments]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_run_that_has_ended_is_not_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", str(GOLDEN)]) == 2
    assert "a run that is finished" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"steps": "x", "ranks": null, "is_memory": false}'])
def test_a_request_that_cannot_be_read_is_gone_when_it_is_taken(text: str, tmp_path: Path) -> None:
    write_profile_request(tmp_path, ProfileRequest(3, None, is_memory=True))
    assert take_profile_request(tmp_path) == ProfileRequest(3, None, is_memory=True)
    request_path(tmp_path).write_text(text)
    assert take_profile_request(tmp_path) is None
    assert not request_path(tmp_path).exists()
