"""The workers of a run on this machine, without Ray: forked off a process that has imported everything once.

Importing torch and DeepSpeed takes longer than a tiny run. The fork server imports them and does nothing else; every
worker is a process of its own, so that it can crash, be killed or run out of memory alone. When the command dies, by
whatever signal, its workers see its end and go, too.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from multiprocessing.process import BaseProcess
from pathlib import Path

from sisa_scale.errors import SisaScaleError
from sisa_scale.runs.exit_codes import HUNG, PREEMPTED, ROLLED_BACK
from sisa_scale.runs.owner import Life
from sisa_scale.runs.recipe import read_recipe

_HOST = "127.0.0.1"
_ORPHANED = 1


class LocalWorkers:
    """The workers of one attempt of a run, from its run directory. device: "cpu" or "cuda"."""

    def __init__(self, run_dir: Path, num_workers: int, device: str, log_path: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["sisa_scale.training.worker", "sisa_scale.studies.local_workers"])
        log_path.parent.mkdir(parents=True, exist_ok=True)
        port = _free_port()
        self.processes: list[ForkServerProcess] = [
            context.Process(
                target=_worker,
                args=(str(run_dir), device, rank, num_workers, port, str(log_path)),
                name=f"{run_dir.name}-{rank}",
            )
            for rank in range(num_workers)
        ]
        for process in self.processes:
            process.start()

    @property
    def sentinels(self) -> Sequence[int]:
        """What to wait for: one of them is ready when a worker has ended."""
        return [process.sentinel for process in self.processes if process.is_alive()]

    def exit_code(self) -> int | None:
        """Return how the workers ended, None while they work. When one fails, the others are ended."""
        codes = [process.exitcode for process in self.processes]
        if any(code not in (None, 0, PREEMPTED) for code in codes):
            self.kill()
            failed = [process.exitcode for process in self.processes if process.exitcode]
            # What a worker says of itself is more than that another one killed or lost it.
            return int(max(failed, key=lambda code: (code > 0, code not in (HUNG, ROLLED_BACK))))
        return None if None in codes else max(code or 0 for code in codes)

    def kill(self) -> None:
        """End what is left of the workers."""
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _worker(run_dir: str, device: str, rank: int, world_size: int, port: int, log_path: str) -> None:
    """Be a worker; the exit code is 0, PREEMPTED, ROLLED_BACK, or that of the error."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), name="orphan-watch", daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command asks the run to save and stop
    with Path(log_path).open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": _HOST, "MASTER_PORT": str(port)}
    code = 1
    try:
        code = _work(run_dir, device)
    except SisaScaleError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201
        code = error.exit_code
    except Exception:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # threads of libraries must not hold up the next trial


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(_ORPHANED)


def _work(run_dir: str, device: str) -> int:
    from sisa_scale.training.hooks.rollback import RollBackError
    from sisa_scale.training.worker import work

    config = read_recipe(Path(run_dir))
    try:
        with Life(config.directory) if os.environ["RANK"] == "0" else contextlib.nullcontext() as life:
            outcome = work(config, device, fence=life)
    except RollBackError as error:
        print(error, file=sys.stderr, flush=True)  # noqa: T201
        return ROLLED_BACK
    return 0 if outcome == "finished" else PREEMPTED
