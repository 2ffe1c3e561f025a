"""Real worker processes for tests: gloo ranks, under torchrun or forked where torch is loaded already."""

import json
import multiprocessing
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SISA_SCALE = [sys.executable, "-m", "sisa_scale.cli.main"]
PROGRAM = Path(__file__).parent / "multiprocess" / "worker_program.py"
TIMEOUT_SECONDS = 300

# Most of a short run's time would go into importing torch: ranks begin as copies of a process that has done so.
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["torch._dynamo", "sisa_scale.training.worker"])


def start_workers(num: int, jobs: Sequence[tuple[str, Path, list[str]]]) -> str:
    """Run the jobs on `num` processes and wait for them; returns what they wrote to standard error."""
    done = try_workers(num, jobs)
    assert done.returncode == 0, first_error(done.stderr)
    return done.stderr


def try_workers(num: int, jobs: Sequence[tuple[str, Path, list[str]]]) -> subprocess.CompletedProcess[str]:
    """Run the jobs on `num` processes to whatever end."""
    argument = json.dumps(
        [[action, str(recipe), [*overrides, f"resources.workers={num}"]] for action, recipe, overrides in jobs]
    )
    shared = {**os.environ, "WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with tempfile.TemporaryDirectory(prefix="ranks-") as logs:
        files = [Path(logs, f"rank_{r}.log") for r in range(num)]
        ranks: list[BaseProcess] = [
            _forks.Process(target=_be_rank, args=(argument, {**shared, "RANK": str(r), "LOCAL_RANK": str(r)}, file))
            for r, file in enumerate(files)
        ]
        for rank in ranks:
            rank.start()
        _wait_for_all(ranks)
        output = "".join(file.read_text(errors="replace") for file in files if file.exists())
    failed = any(rank.exitcode != 0 for rank in ranks)
    return subprocess.CompletedProcess(PROGRAM, int(failed), "", output)


def _be_rank(argument: str, environment: Mapping[str, str], log: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.argv = [str(PROGRAM), argument]
    runpy.run_path(str(PROGRAM), run_name="__main__")


def _wait_for_all(ranks: Sequence[BaseProcess]) -> None:
    """Wait until all have ended; when one fails the others are asked to end, and then made to, as torchrun does."""
    until = time.monotonic() + TIMEOUT_SECONDS
    try:
        while (alive := [rank for rank in ranks if rank.is_alive()]) and not any(rank.exitcode for rank in ranks):
            assert wait([rank.sentinel for rank in alive], until - time.monotonic()), "ranks did not end"
        for rank in alive:
            rank.terminate()
        for rank in alive:
            rank.join(30)
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()


def run_program(
    num: int, program: Path, *arguments: str | Path, max_restarts: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a program on `num` processes to whatever end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num)]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    command += ["--max-restarts", str(max_restarts), "--monitor-interval", "0.2"]
    with tempfile.TemporaryDirectory(prefix="torchrun-") as logs:  # it would leave one of its own
        command += ["--log-dir", logs, str(program), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def start_command(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start `sisa-scale` in a process group of its own, as a terminal does."""
    command = [*SISA_SCALE, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a command and return what it printed."""
    try:
        output, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return output


def run_command(*arguments: str | Path) -> tuple[int, str]:
    """Run `sisa-scale` and return its exit code and what it printed."""
    process = start_command(*arguments)
    output = finish(process)
    return process.returncode, output


def first_error(text: str) -> str:
    """Return the first failure of many ranks, in Python or below it, which says more than the launcher's summary."""
    found = re.search("Traceback|terminate called|Fatal Python error", text)
    start = found.start() if found else 0
    return text[start : start + 6000]
