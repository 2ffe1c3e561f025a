"""Real ranks of `sisa-scale worker`, forked from this process, which has imported everything but runs no thread.

What is left out is the seconds of importing torch; all else is what torchrun starts. Also finds and ends processes.
"""

import ctypes
import gc
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.004
_LOOKS = 10
_PATIENCE_SECONDS = 8.0  # with the others, when a rank has failed


def prepare() -> None:
    """Import what ranks need, and become the parent of every orphan among the descendants."""
    os.environ.update(OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu", DEEPSPEED_LOG_LEVEL="error", DS_BUILD_OPS="0")
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    import torch._inductor  # noqa: F401
    from deepspeed.ops import __compatible_ops__  # noqa: F401  # looks for compilers

    import sisa_scale.cli.worker
    import sisa_scale.evaluation.resources
    import sisa_scale.evaluation.suite
    import sisa_scale.launching.start
    import sisa_scale.training.worker  # noqa: F401

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads: forked ranks would inherit their locks"
    gc.freeze()


@dataclass(slots=True)
class Ranks:
    """Ranks that run or ran: exit code (negative: signal) and time of the end by rank."""

    pids: list[int]
    started: float
    codes: dict[int, int] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)

    def poll(self) -> bool:
        """Take note of those that ended; returns whether all have."""
        for rank, pid in enumerate(self.pids):
            if rank not in self.codes:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    self.codes[rank], self.ended[rank] = os.waitstatus_to_exitcode(status), time.time()
        return len(self.codes) == len(self.pids)

    def send(self, number: signal.Signals, ranks: list[int]) -> None:
        """Send a signal to those that still run."""
        for rank in ranks:
            if rank not in self.codes:
                os.kill(self.pids[rank], number)

    def wait(self, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> list[int]:
        """Wait for all to end; returns those that did not. As torchrun does, ends them all when one has failed.

        They have some seconds to end themselves first: a rank that waits for one that never joined cannot know.
        """
        until = time.monotonic() + seconds
        while not self.poll() and time.monotonic() < until:
            meanwhile()
            time.sleep(_POLL_SECONDS)
            if any(self.codes.values()):
                until = min(until, max(self.ended.values()) + _PATIENCE_SECONDS - time.time() + time.monotonic())
        left = [rank for rank in range(len(self.pids)) if rank not in self.codes]
        self.send(signal.SIGKILL, left)
        while not self.poll():
            time.sleep(_POLL_SECONDS)
        return left


def start_ranks(num: int, arguments: list[str], folder: Path, environment: dict[str, str]) -> Ranks:
    """Fork the ranks of `sisa-scale worker ARGUMENTS`; what rank r prints goes to folder/rank_r.log."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**environment, "WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = time.time()
    command = ["worker", *arguments, "--device", "cpu"]
    sys.stdout.flush()
    pids = []
    for rank in range(num):
        pid = os.fork()
        if pid == 0:
            _be_rank({**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, command, folder / f"rank_{rank}.log")
        pids.append(pid)
    return Ranks(pids, started)


def _be_rank(environment: dict[str, str], command: list[str], log: Path) -> None:
    code = 1
    try:
        os.setpgrp()  # Ctrl-C is for the program that started us
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.environ.update(environment)
        tempfile.tempdir = None
        from sisa_scale.cli.main import main

        main(command)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(Exception):
            _leave_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _leave_group() -> None:
    """What the interpreter does at its end: handlers of atexit, which a forked process must call itself."""
    import atexit

    atexit._run_exitfuncs()


def descendants() -> tuple[list[int], list[int]]:
    """Return the living processes below this one, and its own children that ended; orphans have become its children."""
    parents: dict[int, int] = {}
    adopted: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state == "Z" and int(parent) == os.getpid():
                    adopted.append(int(entry.name))
                elif state not in "ZX":
                    parents[int(entry.name)] = int(parent)
    found, frontier = [], {os.getpid()}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier}
        found += sorted(frontier)
    return found, adopted


def remains(seconds: float) -> list[str]:
    """Wait until no descendant is left; returns the command lines of those that stay longer, which are killed."""
    until, times_none = time.monotonic() + seconds, 0
    left: list[int] = []
    while times_none < _LOOKS and time.monotonic() < until:
        left, ended = descendants()
        for pid in ended:
            os.waitpid(pid, 0)
        # One look may miss a process whose parent ends during it.
        times_none = 0 if left else times_none + 1
        time.sleep(_POLL_SECONDS)
    names = []
    for pid in left:
        with suppress(OSError):
            names.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:100])
            os.kill(pid, signal.SIGKILL)
    return names
