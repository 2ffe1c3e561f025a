"""What a worker is doing and for how long, for its watchdog and for those of the others.

A heartbeat (`runs.diagnostics`) is a small file in the run directory, overwritten at most once a second by a thread:
no collective, and nothing in the path of a step. A worker that is stopped or stuck inside a C call without releasing
the interpreter does not overwrite it: it is silent. One that waits overwrites it and shows since when it waits, and
where.
"""

import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_REMEMBERED = 20
_FRAMES = 40
_COLLECTIVE_FILES = ("torch/distributed/", "deepspeed/comm/")


class Doing(NamedTuple):
    """A phase of a worker; `serial` tells two of the same name apart."""

    phase: str
    step: int
    serial: int


class Heart:
    """Knows the phase of the thread that made it: start, restore, data_wait, step, save, evaluation, between."""

    def __init__(self) -> None:
        self.doing = Doing("start", 0, 0)
        self.seconds: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self._thread = threading.get_ident()

    @contextmanager
    def phase(self, name: str, step: int | None = None) -> Iterator[None]:
        """Be in a phase; how long it took counts for its bound, unless it ends with an error."""
        self._enter(name, step)
        started = time.perf_counter()
        try:
            yield
            self.seconds[name].append(time.perf_counter() - started)
        finally:
            self._enter("between", None)

    def where(self) -> tuple[str, bool]:
        """Return the innermost line of the worker's thread, and whether it is inside a collective."""
        frame = sys._current_frames().get(self._thread)
        if frame is None:
            return "", False
        code = frame.f_code
        innermost = f"{'/'.join(Path(code.co_filename).parts[-2:])}:{frame.f_lineno} {code.co_name}"
        for _ in range(_FRAMES):
            if frame is None:
                break
            if any(name in frame.f_code.co_filename for name in _COLLECTIVE_FILES):
                return innermost, True
            frame = frame.f_back
        return innermost, False

    def _enter(self, phase: str, step: int | None) -> None:
        self.doing = Doing(phase, self.doing.step if step is None else step, self.doing.serial + 1)
