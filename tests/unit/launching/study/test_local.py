import os
import signal

import pytest

from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.study.local import _asked_to_stop


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGINT, "interrupt"), (signal.SIGTERM, "preemption"), (signal.SIGUSR1, "preemption")]
)
def test_a_signal_is_a_reason_to_stop_and_is_said(number: signal.Signals, reason: str) -> None:
    told: list[str] = []
    before = signal.getsignal(number)
    with _asked_to_stop(Reporter(told.append)) as why:
        assert why() is None
        os.kill(os.getpid(), number)
        assert why() == reason
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
    assert told == ["saving and stopping; the same command goes on later"]
    assert signal.getsignal(number) == before
