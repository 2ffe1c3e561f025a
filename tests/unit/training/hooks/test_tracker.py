"""wandb offline, in real processes that are killed: its files hold every step once."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sisa_scale.compat.wandb import records, reversed_steps

PROGRAM = """
import json, os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from sisa_scale.config import load_config
from sisa_scale.runs.metrics import StepRow, append_step
from sisa_scale.training.hooks.tracker import Tracker
from sisa_scale.training.hooks.writer import train_values
run_dir, first, last, is_killed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "kill"
config = load_config("quickstart", [f"run_dir={run_dir}", "wandb.mode=offline"]).config
kept = [line for line in (run_dir / "metrics.jsonl").read_text().splitlines() if json.loads(line)["step"] < first]
(run_dir / "metrics.jsonl").write_text("".join(line + "\\n" for line in kept))
tracker = Tracker(config, is_main=True)
for step in range(first, last + 1):
    row = StepRow(step=step, tokens=step, loss=step / 8, learning_rate=1.0, gradient_norm=1.0, tokens_per_second=1.0,
                  step_seconds=1.0, attempt=1, time=datetime.now(UTC))
    append_step(run_dir, row)
    tracker.log(step, train_values(row))
if is_killed:
    os.kill(os.getpid(), signal.SIGKILL)
tracker.finish()
"""


def life(run_dir: Path, first: int, last: int, end: str) -> None:
    command = [sys.executable, "-c", PROGRAM, str(run_dir), str(first), str(last), end]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == (-signal.SIGKILL if end == "kill" else 0), done.stderr


def test_killed_and_redone_steps_stand_in_wandb_once(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    life(tmp_path, 1, 600, "kill")
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])  # wandb is often killed before it wrote the last
    life(tmp_path, 596, 599, "finish")  # went on from a checkpoint, of whose steps wandb misses some
    life(tmp_path, 401, 450, "kill")  # went far back: wandb has all of these
    life(tmp_path, 441, 620, "finish")
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len({file.stem for file in files}) == 1  # one id
    steps = [step for file in files for step in reversed(list(reversed_steps(file)))]
    assert steps == list(range(1, 621))


@pytest.mark.parametrize("size", [0, 3, 7, 40])
def test_a_file_that_was_cut_off_ends_early(size: int) -> None:
    whole = b":W&B\xe1\xbe\x00" + b"\0\0\0\0\x03\x00\x01abc" + b"\0\0\0\0\x20\x00\x01" + b"d" * 32
    expected = [] if size < 17 else [b"abc"]
    assert list(records(whole[:size])) == expected


def test_a_record_over_several_blocks_is_one() -> None:
    first, rest = b"a" * (32768 - 14), b"b" * 10
    parts = [b"\0\0\0\0" + len(part).to_bytes(2, "little") for part in (first, rest)]
    content = b":W&B\xe1\xbe\x00" + parts[0] + b"\x02" + first + parts[1] + b"\x04" + rest
    assert list(records(content)) == [first + rest]
