import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from signal import SIGKILL

import pytest

from sisa_scale.runs.processes import Identity
from sisa_scale.training.health.heart import Heart


def test_phases_are_numbered_and_timed() -> None:
    heart = Heart()
    assert heart.doing.phase == "start"
    with heart.phase("step", 5):
        first = heart.doing
    with heart.phase("save"):
        assert heart.doing.phase == "save"
        assert heart.doing.step == 5
        assert heart.doing.serial > first.serial
    assert heart.doing.phase == "between"
    assert len(heart.seconds["step"]) == len(heart.seconds["save"]) == 1


def test_a_phase_that_fails_teaches_nothing() -> None:
    heart = Heart()
    with pytest.raises(ValueError, match="broken"), heart.phase("step", 1):
        raise ValueError("broken")
    assert not heart.seconds["step"]
    assert heart.doing.phase == "between"


def test_where_names_the_innermost_line() -> None:
    where, in_collective = Heart().where()
    assert "heart.py" in where
    assert not in_collective


def test_a_process_is_killed_by_number_and_start() -> None:
    process = subprocess.Popen([sys.executable, "-c", "print(1, flush=True); input()"], stdin=-1, stdout=-1)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        mine = Identity.of_this()
        started = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        other = Identity(mine.host, process.pid, started)
        assert mine.is_here()
        assert other.state() in ("R", "S")
        assert not replace(other, started=started - 1).send(SIGKILL)
        assert not replace(other, started=None).send(SIGKILL)
        assert not replace(other, host="elsewhere").send(SIGKILL)
        assert process.poll() is None
        assert other.send(SIGKILL)
        assert process.wait() == -9
        assert not other.send(SIGKILL)
    finally:
        process.kill()
        process.communicate()
