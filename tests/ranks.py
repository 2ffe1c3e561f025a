"""Real ranks without a launcher, so that a test sees the exit code of each."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from processes import SISA_SCALE, free_port


def start_ranks(num: int, *arguments: str | Path, faults: str = "", folder: Path) -> list[subprocess.Popen[str]]:
    """Start `num` workers of `sisa-scale worker`; what rank r prints goes to folder/rank_r.log."""
    shared = {**os.environ, "WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"SISA_SCALE_FAULTS": faults, "OMP_NUM_THREADS": "1"}
    folder.mkdir(parents=True, exist_ok=True)
    command = [*SISA_SCALE, "worker", *map(str, arguments), "--device", "cpu"]
    return [
        _start(command, {**shared, "RANK": str(r), "LOCAL_RANK": str(r)}, folder / f"rank_{r}.log") for r in range(num)
    ]


def finish_ranks(ranks: list[subprocess.Popen[str]], timeout: float = 180) -> list[int]:
    """Wait for all and return their exit codes; what still lives after the time is killed, and the test fails."""
    until = time.monotonic() + timeout
    try:
        return [rank.wait(max(0.1, until - time.monotonic())) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def wait_for(is_true: Callable[[], bool], ranks: list[subprocess.Popen[str]], timeout: float = 120) -> None:
    """Wait until something has happened while all ranks live."""
    until = time.monotonic() + timeout
    while not is_true():
        assert time.monotonic() < until, "it did not happen"
        assert all(rank.poll() is None for rank in ranks), "a rank has ended"
        time.sleep(0.05)


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """Return the events of a kind."""
    lines = map(json.loads, (run_dir / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


def _start(command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[str]:
    with log.open("w") as stream:
        return subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT, text=True)
