"""When a checkpoint is due by the clock. One worker's clock decides for all, through the vote of a step."""

import time


class SaveClock:
    """Counts the seconds of training since the last checkpoint; the first look starts it.

    every_seconds: between two checkpoints, None where none is due by the clock.
    """

    def __init__(self, every_seconds: float | None) -> None:
        self._every_seconds = every_seconds
        self._since: float | None = None

    def is_due(self) -> bool:
        """Whether the seconds have passed; it stays so until a checkpoint begins."""
        if self._since is None:
            self.restart()
        return self._every_seconds is not None and time.monotonic() - (self._since or 0.0) >= self._every_seconds

    def restart(self) -> None:
        """Count from now on."""
        self._since = time.monotonic()
