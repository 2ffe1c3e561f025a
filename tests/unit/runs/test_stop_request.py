import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sisa_scale.runs import stop_request as preemption
from sisa_scale.runs.stop_request import StopRequest, asked_to_stop, request_stop, write_stop


@pytest.fixture(autouse=True)
def _not_asked() -> Iterator[None]:
    yield
    preemption._Asked.request = None


def test_nobody_asks(tmp_path: Path) -> None:
    assert asked_to_stop(tmp_path / "stop") is None
    assert asked_to_stop(None) is None


def test_an_empty_or_torn_file_is_an_interrupt(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    assert asked_to_stop(tmp_path / "stop") == StopRequest("interrupt")
    (tmp_path / "stop").write_text("[1")
    assert asked_to_stop(tmp_path / "stop") == StopRequest("interrupt")


def test_a_file_says_why_and_until_when(tmp_path: Path) -> None:
    write_stop(tmp_path / "stop", "preemption", 60)
    request = asked_to_stop(tmp_path / "stop")
    assert request is not None
    assert request.reason == "preemption"
    assert request.deadline is not None
    assert 0 < request.deadline - time.time() <= 60


def test_a_call_asks_without_a_file() -> None:
    request_stop("interrupt")
    assert asked_to_stop(None) == StopRequest("interrupt")


@pytest.mark.parametrize(
    ("name", "reason"), [("SIGTERM", "preemption"), ("SIGUSR1", "preemption"), ("SIGINT", "interrupt")]
)
def test_signals_ask(name: str, reason: str) -> None:
    program = f"""
import os, signal
from sisa_scale.runs.stop_request import asked_to_stop, listen_for_signals
listen_for_signals()
os.kill(os.getpid(), signal.{name})
request = asked_to_stop(None)
print(request.reason, request.deadline is not None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ)
    assert done.stdout.split() == [reason, str(reason == "preemption")], done.stderr
