"""Real worker processes for tests: gloo ranks under torchrun."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SISA_SCALE = [sys.executable, "-m", "sisa_scale.cli.main"]
PROGRAM = Path(__file__).parent / "multiprocess" / "worker_program.py"


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
    return run_program(num, PROGRAM, argument)


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
