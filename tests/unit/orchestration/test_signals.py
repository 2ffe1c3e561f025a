"""Signals to the command become requests; what is printed of them is printed outside the handler."""

import os
import signal
from pathlib import Path

import pytest

from sisa_scale.orchestration.signals import StoppedEarlyError, stop_on_signals


def test_a_signal_asks_at_once_and_is_told_once_by_the_next_look(tmp_path: Path) -> None:
    told: list[str] = []
    stop_path = tmp_path / "stop.json"
    with stop_on_signals(stop_path, told.append) as asked:
        assert not asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked
        assert stop_path.exists()
        assert told == []  # a line may be half printed when the signal comes
        asked.renew()
        asked.renew()
        assert told == ["SIGTERM: saving a checkpoint and ending, to be started again"]
        stop_path.unlink()
        asked.renew()
        assert stop_path.exists()
    assert not stop_path.exists()
    assert asked.outcome == "preempted"


def test_a_signal_before_there_is_anything_to_save_ends_at_once(tmp_path: Path) -> None:
    with stop_on_signals(tmp_path / "stop", print) as asked:
        with pytest.raises(StoppedEarlyError), asked.at_once():
            os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(StoppedEarlyError), asked.at_once():
            raise AssertionError("it was asked before")
        assert asked.outcome == "preempted"


def test_a_terminal_that_is_closed_asks_too_unless_nohup_has_it_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with stop_on_signals(tmp_path / "stop", print) as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert asked.signals == [signal.SIGHUP]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with stop_on_signals(tmp_path / "stop", print) as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked
    finally:
        signal.signal(signal.SIGHUP, before)
