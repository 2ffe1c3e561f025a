"""Standard output that may go away, as under `| head` or in a terminal that is closed: work goes on without it."""

import io
import os
import sys
from typing import Any

_PLAIN = str.maketrans({"·": "-", "━": "=", "█": "#", "–": "-", "…": "...", "─": "-", "│": "|"})


class Terminal(io.TextIOBase):
    """Writes to standard output; once that fails, to nowhere."""

    def write(self, text: str) -> int:
        """Write a text."""
        try:
            sys.stdout.write(text)
        except UnicodeEncodeError:  # a terminal of few letters
            plain = text.translate(_PLAIN).encode(self.encoding, "replace").decode(self.encoding)
            sys.stdout.write(plain)
        except (OSError, ValueError):
            drop(sys.stdout)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            drop(sys.stdout)

    def isatty(self) -> bool:
        """Whether a person may look on."""
        return not sys.stdout.closed and sys.stdout.isatty()

    def fileno(self) -> int:
        """Return the descriptor of standard output."""
        return sys.stdout.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of standard output."""
        return getattr(sys.stdout, "encoding", None) or "utf-8"


def drop(stream: Any) -> None:
    """Send what is written to a stream to nowhere from now on."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):  # it has no descriptor: nothing of it reaches the system
        pass
