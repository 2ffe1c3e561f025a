"""Named places where a test may make a process fail; all off unless the environment variable SISA_SCALE_FAULTS is set.

    SISA_SCALE_FAULTS="checkpoint.part.after_write@rank1#2=kill;checkpoint.commit.before_rename=sleep:3"

A fault is NAME[@rankR][#N]=ACTION: at the place NAME, in the worker of rank R (any process if absent), at the N-th time
this process comes by (every time if absent), do ACTION:

    kill            SIGKILL to this process          stop       SIGSTOP to this process: it hangs
    exit            end the process with code 1      sleep:S    wait S seconds
    raise_enospc    OSError of a full disk           raise_eio  OSError of a failing disk

If SISA_SCALE_FAULTS_FIRED names a directory, a fault leaves an empty file there just before it acts, named by its
position in the list, and a fault whose file exists never acts again, in whichever process: restarted workers inherit
the environment but not the fault. The file's time is when it happened.
"""

import errno
import os
import re
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sisa_scale.errors import ConfigError

VARIABLE = "SISA_SCALE_FAULTS"
FIRED_VARIABLE = "SISA_SCALE_FAULTS_FIRED"
FAULT_POINTS = (
    "checkpoint.copy.before",
    "checkpoint.part.before_write",
    "checkpoint.part.in_write",
    "checkpoint.part.after_write",
    "checkpoint.part.after_sync",
    "checkpoint.manifest.before_write",
    "checkpoint.commit.before_rename",
    "checkpoint.commit.after_rename",
    "checkpoint.prune.in_delete",
    "checkpoint.load.before_verify",
    "checkpoint.load.after_verify",
    "data.before_batch",
    "step.before_backward",
    "step.before_update",
    "evaluation.before_score",
)
ACTIONS = ("kill", "stop", "exit", "sleep:SECONDS", "raise_enospc", "raise_eio")
_FAULT = re.compile(
    r"(?P<name>[a-z_.]+)(@rank(?P<rank>\d+))?(#(?P<hit>[1-9]\d*))?"
    r"=(?P<action>kill|stop|exit|raise_enospc|raise_eio|sleep:(?P<seconds>\d+(\.\d+)?))"
)
_hits: Counter[str] = Counter()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Fault:
    """One entry of the variable: `rank` and `hit` are None where any will do."""

    name: str
    rank: str | None
    hit: int | None
    action: str
    seconds: float


def fault_point(name: str) -> None:
    """Come by the place `name`; does nothing unless a fault was asked for here."""
    text = os.environ.get(VARIABLE)
    if not text:
        return
    if name not in FAULT_POINTS:
        raise AssertionError(f"fault point {name!r} is missing in FAULT_POINTS")
    faults = parse_faults(text)
    with _lock:
        _hits[name] += 1
        hit = _hits[name]
    for position, fault in enumerate(faults):
        is_here = fault.name == name and fault.rank in (None, os.environ.get("RANK", "0"))
        if is_here and fault.hit in (None, hit) and _may_fire(position):
            _act(fault)


@lru_cache(maxsize=8)
def parse_faults(text: str) -> tuple[Fault, ...]:
    """Read the value of the variable; raises ConfigError for unknown names and actions."""
    faults = []
    for entry in text.split(";"):
        match = _FAULT.fullmatch(entry.strip())
        if match is None or match["name"] not in FAULT_POINTS:
            raise ConfigError.at(
                VARIABLE,
                found=repr(entry),
                allowed=f"NAME[@rankR][#N]=ACTION with ACTION one of {', '.join(ACTIONS)} and NAME one of "
                f"{', '.join(FAULT_POINTS)}",
                remedy="Correct the variable, or unset it: it is for tests only.",
            )
        rank = None if match["rank"] is None else str(int(match["rank"]))
        hit = int(match["hit"]) if match["hit"] else None
        faults.append(Fault(match["name"], rank, hit, match["action"], float(match["seconds"] or 0)))
    return tuple(faults)


def _may_fire(position: int) -> bool:
    """Whether a fault has not acted yet; without a directory to remember it in, it always may."""
    directory = os.environ.get(FIRED_VARIABLE)
    if not directory:
        return True
    try:
        (Path(directory) / str(position)).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _act(fault: Fault) -> None:
    action = fault.action
    if action in ("kill", "stop"):
        # To this thread: sent to the process, another thread may take it while this one goes on.
        signal.pthread_kill(threading.get_ident(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)
    elif action == "exit":
        os._exit(1)
    elif action.startswith("raise_"):
        code = errno.ENOSPC if action == "raise_enospc" else errno.EIO
        raise OSError(code, os.strerror(code), fault.name)
    else:
        time.sleep(fault.seconds)
