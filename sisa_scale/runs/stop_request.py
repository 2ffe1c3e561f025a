"""Being asked to stop: by a person, or because the machine is taken away.

Any worker may be asked, by a signal, by a call, or, for all at once, by the file `stop` in the run directory. The
workers vote in every step, save a checkpoint after the step in which one of them was asked, and end.
"""

import json
import signal
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from sisa_scale.files import write_json
from sisa_scale.runs.problems import file_errors

# What Slurm (KillWait) and Kubernetes (terminationGracePeriodSeconds) leave between SIGTERM and SIGKILL by default.
SIGNAL_GRACE_SECONDS = 30.0

Reason = Literal["interrupt", "preemption"]


@dataclass(frozen=True, slots=True)
class StopRequest:
    """Why to stop, and until when (Unix time in seconds; None: no hurry)."""

    reason: Reason
    deadline: float | None = None


class _Asked:
    request: StopRequest | None = None


def request_stop(reason: Reason, deadline_seconds: float | None = None) -> None:
    """Ask all workers, through this one, to save and end; may be called from a signal handler or any thread."""
    deadline = None if deadline_seconds is None else time.time() + deadline_seconds
    _Asked.request = StopRequest(reason, deadline)


def write_stop(path: Path, reason: Reason, deadline_seconds: float | None = None) -> None:
    """Ask all workers by the file `stop`."""
    deadline = None if deadline_seconds is None else time.time() + deadline_seconds
    with file_errors(path):
        write_json(path, asdict(StopRequest(reason, deadline)))


def asked_to_stop(stop_path: Path | None) -> StopRequest | None:
    """Return what this worker was asked: in its process, or by the file if it is given one to look at."""
    if _Asked.request is not None or stop_path is None or not stop_path.exists():
        return _Asked.request
    try:
        note = json.loads(stop_path.read_text())
        return StopRequest("preemption" if note["reason"] == "preemption" else "interrupt", note.get("deadline"))
    except (OSError, ValueError, TypeError, KeyError):  # made with `touch`
        return StopRequest("interrupt")


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask for a checkpoint and a stop; SIGHUP not where `nohup` has it ignored."""
    is_kept = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, *([] if is_kept else [signal.SIGHUP])]


def listen_for_signals() -> None:
    """Take signals as requests: SIGINT as an interrupt, the others as preemption. Call it in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals reach the main thread only")

    def ask(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            request_stop("interrupt")
        else:
            request_stop("preemption", SIGNAL_GRACE_SECONDS)

    for name in stop_signals():
        signal.signal(name, ask)
