"""Whom launching tells what happens: a command prints it, a program may not care."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from sisa_scale.config.run import RunConfig
from sisa_scale.launching.submission import Submission


class Reporter:
    """Hands sentences to `announce`, or to nobody; a command line overrides the rest to show more."""

    def __init__(self, announce: Callable[[str], None] | None = None) -> None:
        self._announce = announce

    def announce(self, text: str) -> None:
        """Take a sentence about what happens."""
        if self._announce is not None:
            self._announce(text)

    def line(self, text: str) -> None:
        """Take a line that a followed job printed."""

    def submitted(self, submission: Submission) -> None:
        """Take note of a job that was handed over."""

    def watch(self, config: RunConfig) -> AbstractContextManager[Callable[[], None]]:
        """Return a context in which a run works here; its function is called a few times a second."""
        return nullcontext(lambda: None)
