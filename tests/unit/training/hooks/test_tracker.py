"""wandb offline, in real processes that are killed: its files hold every step once."""

import json
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
from sisa_scale.runs.logs.metrics import StepRow, append_step
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


DYING = """
import http.server, json, os, sys, threading, warnings
from pathlib import Path
from sisa_scale.config import load_config
from sisa_scale.training.hooks import tracker

VIEWER = {"id": "x", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
PROJECT = {"id": "p", "name": "sisa-scale", "entity": {"id": "e", "name": "me"}}
BUCKET = {"id": "b", "name": "one", "displayName": "n", "config": "{}", "historyLineCount": 0, "project": PROJECT}
FILES = {"runID": "b", "uploadHeaders": [], "files": []}
ANSWERS = {"viewer": VIEWER, "model": None, "createRunFiles": FILES}
ANSWERS["upsertBucket"] = {"bucket": BUCKET, "inserted": True}
alive = sys.argv[2].split()  # what the server lives to answer

class Server(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        query = str(json.loads(self.rfile.read(int(self.headers["content-length"])) or "{}").get("query"))
        for name in alive:
            if self.path == "/graphql" and name in query:
                body = json.dumps({"data": {name: ANSWERS[name]}}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
        self.close_connection = True

    def log_message(self, *_arguments):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ.update(WANDB_BASE_URL=f"http://127.0.0.1:{server.server_port}", WANDB_API_KEY="0" * 40)
tracker._INIT_SECONDS, tracker._FINISH_SECONDS = float(sys.argv[3]), 2.0
config = load_config("quickstart", [f"run_dir={sys.argv[1]}", "wandb.mode=online"]).config
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", tracker.SisaScaleWarning)
    run = tracker.Tracker(config, is_main=True)
    for step in range(1, 9):
        run.log(step, {"train/loss": 1.0})
    run.finish()
print(json.dumps([str(each.message) for each in caught if each.category is tracker.SisaScaleWarning]), flush=True)
os._exit(0)  # as a worker ends
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


@pytest.mark.parametrize(
    ("alive", "init_seconds", "says", "kept"),
    [
        ("viewer", "3", "; wandb works offline, and `wandb sync` sends its files later", "offline-run-*"),
        ("viewer upsertBucket createRunFiles model", "90", "its files are kept, and `wandb sync` sends them", "run-*"),
    ],
    ids=["after the login", "in the run"],
)
def test_a_server_that_dies_costs_one_line(tmp_path: Path, alive: str, init_seconds: str, says: str, kept: str) -> None:
    (tmp_path / "metrics.jsonl").touch()
    command = [sys.executable, "-c", DYING, str(tmp_path), alive, init_seconds]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = json.loads(done.stdout.splitlines()[-1])
    assert says in line
    (file,) = tmp_path.glob(f"wandb/{kept}/*.wandb")
    assert next(iter(reversed_steps(file))) == 8


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
