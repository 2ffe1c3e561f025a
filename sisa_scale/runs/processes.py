"""Processes of this host by identity, so that a number that was given to another process is never signalled."""

import os
import platform
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Identity:
    """A process: host, number, and its start in clock ticks since boot (None where the system does not tell)."""

    host: str
    pid: int
    started: int | None

    @classmethod
    def of_this(cls) -> "Identity":
        """Return the identity of this process."""
        return cls(platform.node(), os.getpid(), _field(os.getpid(), 19))

    def is_here(self) -> bool:
        """Whether the process lives on this host now."""
        is_known = self.started is not None and self.host == platform.node()
        return is_known and _field(self.pid, 19) == self.started

    def state(self) -> str:
        """Return the state that the kernel gives, such as `T` for stopped, or "" if it is not here."""
        return _stat(self.pid)[0] if self.is_here() else ""

    def send(self, number: signal.Signals) -> bool:
        """Send a signal if the process lives on this host; returns whether it was sent."""
        if not self.is_here():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def _field(pid: int, index: int) -> int | None:
    fields = _stat(pid)
    return int(fields[index]) if len(fields) > index else None


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; the name before them may hold spaces and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() or [""]
    except OSError:
        return [""]
