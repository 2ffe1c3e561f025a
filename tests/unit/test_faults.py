import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import sisa_scale
from sisa_scale import faults
from sisa_scale.errors import ConfigError
from sisa_scale.faults import FAULT_POINTS, FIRED_VARIABLE, VARIABLE, fault_point

PLACE, OTHER = FAULT_POINTS[:2]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    faults._hits.clear()
    for name in (VARIABLE, FIRED_VARIABLE, "RANK"):
        monkeypatch.delenv(name, raising=False)


def hits_that_fail(name: str, times: int) -> list[int]:
    failed = []
    for hit in range(1, times + 1):
        try:
            fault_point(name)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            failed.append(hit)
    return failed


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        (f"{PLACE}=raise_enospc", [1, 2, 3]),
        (f"{PLACE}#2=raise_enospc", [2]),
        (f"{PLACE}@rank0#3=raise_enospc", [3]),
        (f"{PLACE}@rank1=raise_enospc", []),
        (f"{OTHER}=raise_enospc", []),
        (f"{OTHER}=raise_eio; {PLACE}#1=raise_enospc;{PLACE}#3=raise_enospc", [1, 3]),
        ("", []),
    ],
)
def test_a_fault_acts_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, text: str, failed: list[int]) -> None:
    monkeypatch.setenv(VARIABLE, text)
    assert hits_that_fail(PLACE, 3) == failed


def test_the_rank_is_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"{PLACE}@rank1=raise_enospc")
    monkeypatch.setenv("RANK", "1")
    assert hits_that_fail(PLACE, 2) == [1, 2]


def test_a_fault_that_acted_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, f"{OTHER}=kill;{PLACE}=raise_enospc")
    monkeypatch.setenv(FIRED_VARIABLE, str(tmp_path))
    assert hits_that_fail(PLACE, 2) == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    faults._hits.clear()  # as in another process
    assert hits_that_fail(PLACE, 2) == []


def run(action: str) -> subprocess.Popen[bytes]:
    program = f"from sisa_scale.faults import fault_point; fault_point({PLACE!r}); print('went on')"
    environment = {**os.environ, VARIABLE: f"{PLACE}={action}"}
    return subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE)


@pytest.mark.parametrize(
    ("action", "code", "output"), [("kill", -signal.SIGKILL, b""), ("exit", 1, b""), ("sleep:0.01", 0, b"went on\n")]
)
def test_a_process_really_fails(action: str, code: int, output: bytes) -> None:
    process = run(action)
    assert (process.communicate(timeout=60)[0], process.returncode) == (output, code)


def test_a_stopped_process_hangs() -> None:
    process = run("stop")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.kill()
    process.communicate(timeout=60)


@pytest.mark.parametrize("text", ["nowhere=kill", f"{PLACE}=burn", PLACE, f"{PLACE}#0=kill", f"{PLACE}=sleep", ";"])
def test_what_is_unknown_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ConfigError, match=rf"{VARIABLE}: found .*{re.escape(OTHER)}"):
        fault_point(PLACE)


def test_every_place_is_listed_once() -> None:
    code = "".join(path.read_text() for path in Path(sisa_scale.__file__).parent.rglob("*.py"))
    assert sorted(set(re.findall(r'fault_point\("([^"]+)"\)', code))) == sorted(FAULT_POINTS)
