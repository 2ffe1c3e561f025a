"""Standard output that may go away, as under `| head` or in a terminal that is closed: work goes on without it."""

import io
import os
import sys
from typing import Any

_PLAIN = str.maketrans({"·": "-", "━": "=", "█": "#", "–": "-", "…": "...", "─": "-", "│": "|"})
_CURVE = str.maketrans("▁▂▃▄▅▆▇", "_.:-=+*")


class Terminal(io.TextIOBase):
    """Writes to standard output; once that fails, to nowhere."""

    def write(self, text: str) -> int:
        """Write a text."""
        try:
            _stdout().write(text)
        except UnicodeEncodeError:  # a terminal of few letters
            plain = text.translate(_PLAIN).translate(_CURVE).encode(self.encoding, "replace").decode(self.encoding)
            _stdout().write(plain)
        except (OSError, ValueError):
            drop(_stdout())
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            _stdout().flush()
        except (OSError, ValueError):
            drop(_stdout())

    def isatty(self) -> bool:
        """Whether a person may look on."""
        return not _stdout().closed and _stdout().isatty()

    def fileno(self) -> int:
        """Return the descriptor of standard output."""
        return int(_stdout().fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of standard output."""
        return getattr(_stdout(), "encoding", None) or "utf-8"


def _stdout() -> Any:
    """Return standard output itself: while a live page is drawn, rich stands in its place and would send all to us."""
    return getattr(sys.stdout, "rich_proxied_file", sys.stdout)


def drop(stream: Any) -> None:
    """Send what is written to a stream to nowhere from now on."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):  # it has no descriptor: nothing of it reaches the system
        pass
