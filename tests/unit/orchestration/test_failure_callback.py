"""Real exceptions of Ray, as its controller hands them over."""

from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from run_lines import TIME

from sisa_scale.orchestration import failure_callback as deaths
from sisa_scale.runs.attempts import Attempt

ATTEMPT = Attempt(
    attempt=1, world_size=3, zero_stage=1, started=TIME, processes=["h:1", "h:2", "i:3"], nodes=["A", "A", "B"]
)


def died(words: str) -> Exception:
    failure = ActorDiedError()
    failure.error_msg = words
    failure.args = (words,)
    return WorkerHealthCheckFailedError("A worker health check failed.", failure=failure)


def casualties(exceptions: dict[int, Exception], monkeypatch: pytest.MonkeyPatch, *silent: str) -> Any:
    monkeypatch.setattr(deaths, "answers", lambda node: node not in silent)
    return deaths.casualties(exceptions, ATTEMPT)


def test_the_process_that_is_gone_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    echo = RuntimeError("Connection closed by peer [127.0.0.1]:1\nlong")
    ranks, reason = casualties({0: echo, 1: died("unexpectedly exits"), 2: echo}, monkeypatch)
    assert (ranks, "rank 1 (h:2)" in reason, "without an exit code" in reason) == ([1], True, True)
    _, reason = casualties({1: died("Worker exits with an exit code 76. Traceback")}, monkeypatch)
    assert "exit code 76, its watchdog ended it" in reason


def test_a_node_that_does_not_answer_takes_all_its_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, reason = casualties({2: RuntimeError("Connection reset by peer")}, monkeypatch, "A")
    assert ranks == [0, 1]
    assert "does not answer" in reason


def test_without_a_death_the_error_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert casualties({2: ValueError("no such thing\nmore")}, monkeypatch) == ([2], "rank 2: ValueError: no such thing")
