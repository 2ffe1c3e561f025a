"""Signals to the command that started a run, turned into requests to save and stop."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sisa_scale.runs.outcome import Outcome, outcome_of
from sisa_scale.runs.stop_request import SIGNAL_GRACE_SECONDS, Reason, stop_signals, write_stop


class StoppedEarlyError(BaseException):
    """A signal came before there was anything to save. No `except Exception` on the way may take it for its own."""


class Asked:
    """The signals that came. `renew` asks again where the answer to another request took the file away.

    A signal may come while a line is being printed, and a second one cannot be begun then: `renew` says what came.
    """

    def __init__(self, stop_path: Path, announce: Callable[[str], None]) -> None:
        self.stop_path, self.announce = stop_path, announce
        self.signals: list[int] = []
        self._num_told = 0
        self._is_early = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise StoppedEarlyError at a signal meanwhile, or for one that came before: there is nothing to save yet."""
        self._is_early = True
        try:
            if self.signals:
                raise StoppedEarlyError
            yield
        finally:
            self._is_early = False

    def __bool__(self) -> bool:
        return bool(self.signals)

    @property
    def first(self) -> str:
        """The name of the signal that came first."""
        return signal.Signals(self.signals[0]).name

    @property
    def outcome(self) -> Outcome:
        """How a run ends that was asked so."""
        return outcome_of(self._reason)

    def renew(self) -> None:
        """Make sure that the workers are asked, if a signal came, and that the person knows."""
        self._ask()
        while self._num_told < len(self.signals):
            self._num_told += 1
            self.announce(_words(self.signals[self._num_told - 1]))

    @property
    def _reason(self) -> Reason:
        return "interrupt" if self.signals[:1] == [signal.SIGINT] else "preemption"

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal in."""
        if number == signal.SIGINT and number in self.signals:
            raise KeyboardInterrupt
        self.signals.append(number)
        self._ask()
        if self._is_early:
            self._is_early = False
            raise StoppedEarlyError

    def _ask(self) -> None:
        if self.signals and not self.stop_path.exists():
            is_urgent = self._reason == "preemption"
            write_stop(self.stop_path, self._reason, SIGNAL_GRACE_SECONDS if is_urgent else None)


@contextmanager
def stop_on_signals(stop_path: Path, announce: Callable[[str], None]) -> Iterator[Asked]:
    """Ask the workers to save and end at SIGINT (an interrupt), SIGTERM, SIGUSR1 and SIGHUP (this job is taken away).

    A second SIGINT raises KeyboardInterrupt.
    """
    asked = Asked(stop_path, announce)
    before = {name: signal.getsignal(name) for name in stop_signals()}
    for name in before:
        signal.signal(name, asked.handle)
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
