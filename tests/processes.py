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
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.multiprocessing.spawn import ProcessExitedException, start_processes

SISA_SCALE = [sys.executable, "-m", "sisa_scale.cli.main"]
PROGRAM = Path(__file__).parent / "multiprocess" / "worker_program.py"

# Most of a short run's time would go into importing torch: ranks begin as copies of a process that has done so.
multiprocessing.get_context("forkserver").set_forkserver_preload(["torch._dynamo", "sisa_scale.training.worker"])


def start_workers(num: int, jobs: Sequence[tuple[str, Path, list[str]]], program: Path = PROGRAM) -> str:
    """Run the jobs on `num` processes and wait for them; returns what they wrote to standard error."""
    done = try_workers(num, jobs, program)
    assert done.returncode == 0, first_error(done.stderr)
    return done.stderr


def try_workers(
    num: int, jobs: Sequence[tuple[str, Path, list[str]]], program: Path = PROGRAM
) -> subprocess.CompletedProcess[str]:
    """Run the jobs on `num` processes to whatever end."""
    argument = json.dumps(
        [[action, str(recipe), [*overrides, f"resources.workers={num}"]] for action, recipe, overrides in jobs]
    )
    place = {"WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with tempfile.TemporaryDirectory(prefix="ranks-") as logs:
        ranks = start_processes(
            _be_rank, (program, argument, {**os.environ, **place}, logs), num, join=False, start_method="forkserver"
        )
        try:
            while not ranks.join():
                pass
            code = 0
        except ProcessExitedException as error:  # the others have been ended, too
            code = error.exit_code
        finally:
            for process in ranks.processes:
                process.kill()
        output = "".join(file.read_text(errors="replace") for file in sorted(Path(logs).iterdir()))
    return subprocess.CompletedProcess(PROGRAM, code, "", output)


def _be_rank(rank: int, program: Path, argument: str, environment: Mapping[str, str], logs: str) -> None:
    os.environ.clear()
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    with Path(logs, f"rank_{rank}.log").open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.argv = [str(program), argument]
    try:
        runpy.run_path(str(program), run_name="__main__")
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def run_program(
    num: int, program: Path, *arguments: str | Path, max_restarts: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a program on `num` processes to whatever end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num)]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    command += ["--max-restarts", str(max_restarts), "--monitor-interval", "0.2"]
    with tempfile.TemporaryDirectory(prefix="torchrun-") as logs:  # it would leave one of its own
        command += ["--log-dir", logs, str(program), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


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
