from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from sisa_scale.runs.diagnostics import Diagnostics, Heartbeat

BEAT = Heartbeat(3, "a", 17, "data_wait", 7, 6.5, "stream.py:1 next", False, "2026-01-01T00:00:00")


@pytest.fixture
def diagnostics(tmp_path: Path) -> Diagnostics:
    made = Diagnostics(tmp_path, 12)
    made.create()
    return made


def test_a_heartbeat_is_overwritten_in_place(tmp_path: Path) -> None:
    path = tmp_path / "beat"
    assert Heartbeat.read(path) is None
    BEAT.write(path)
    inode = path.stat().st_ino
    shorter = replace(BEAT, phase="step")
    shorter.write(path)
    assert Heartbeat.read(path) == shorter
    assert path.stat().st_ino == inode
    path.write_text('{"rank": 3, "ho')
    assert Heartbeat.read(path) is None


def test_heartbeats_are_found_by_attempt(diagnostics: Diagnostics) -> None:
    diagnostics.beat(BEAT)
    diagnostics.beat(replace(BEAT, rank=0))
    assert diagnostics.heartbeat(3) == BEAT
    assert diagnostics.heartbeat(1) is None
    time = datetime.fromisoformat(BEAT.time)
    assert diagnostics.heartbeats() == [(replace(BEAT, rank=0), time), (BEAT, time)]
    assert Diagnostics(diagnostics.run_dir, 11).heartbeats() == []
    assert diagnostics.directory.name == "attempt_0012"


def test_one_alarm_becomes_one_verdict(diagnostics: Diagnostics) -> None:
    assert not diagnostics.has_alarm()
    assert diagnostics.raise_alarm({"rank": 1})
    assert not diagnostics.raise_alarm({"rank": 2})
    assert diagnostics.has_alarm()
    assert not diagnostics.has_verdict()
    assert diagnostics.silent(2) == [0, 1]
    diagnostics.answer(1)
    assert diagnostics.silent(2) == [0]
    diagnostics.write_verdict({"rank": 1, "suspects": [0]})
    assert diagnostics.has_verdict()
