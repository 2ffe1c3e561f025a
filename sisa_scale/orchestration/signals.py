"""Signals to the command that started a run, turned into requests to save and stop."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sisa_scale.runs.stop_request import SIGNAL_GRACE_SECONDS, write_stop


class Asked:
    """The signals that came. `renew` asks again where the answer to another request took the file away.

    A signal may come while a line is being printed, and a second one cannot be begun then: `renew` says what came.
    """

    def __init__(self, stop_path: Path, announce: Callable[[str], None]) -> None:
        self.stop_path, self.announce = stop_path, announce
        self.signals: list[int] = []
        self._num_told = 0

    def came(self, number: int) -> None:
        """Take a signal in, and ask the workers at once."""
        self.signals.append(number)
        self._ask()

    def __bool__(self) -> bool:
        return bool(self.signals)

    def renew(self) -> None:
        """Make sure that the workers are asked, if a signal came, and that the person knows."""
        self._ask()
        while self._num_told < len(self.signals):
            self._num_told += 1
            self.announce(_words(self.signals[self._num_told - 1]))

    def _ask(self) -> None:
        if not self.signals or self.stop_path.exists():
            return
        if self.signals[0] == signal.SIGINT:
            write_stop(self.stop_path, "interrupt")
        else:
            write_stop(self.stop_path, "preemption", SIGNAL_GRACE_SECONDS)


@contextmanager
def stop_on_signals(stop_path: Path, announce: Callable[[str], None]) -> Iterator[Asked]:
    """Ask the workers to save and end at SIGINT (an interrupt), SIGTERM and SIGUSR1 (this job is taken away).

    A second SIGINT raises KeyboardInterrupt.
    """
    asked = Asked(stop_path, announce)

    def ask(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in asked.signals:
            raise KeyboardInterrupt
        asked.came(number)

    before = {name: signal.signal(name, ask) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield asked
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
        stop_path.unlink(missing_ok=True)


def _words(number: int) -> str:
    if number == signal.SIGINT:
        return "stopping after this step, with a checkpoint (Ctrl-C once more stops at once and loses the steps)"
    return f"{signal.Signals(number).name}: saving a checkpoint and ending, to be started again"
