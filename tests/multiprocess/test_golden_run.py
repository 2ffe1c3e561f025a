"""A run directory and a data set of format 0.1: what earlier versions wrote is read, resumed and reported."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from processes import SISA_SCALE, free_port, metrics, run_command

GOLDEN = Path(__file__).parents[1] / "golden" / "run_0_1"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the run beside a copy of its data."""
    for name in ("run", "data"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("/golden/", f"{tmp_path}/"))
    return tmp_path / "run"


@pytest.mark.parametrize("stage", [0, 3])
def test_resumes_on_one_worker_with_the_steps_of_before(run: Path, stage: int) -> None:
    shutil.rmtree(run / "checkpoints" / "step_00000012")
    command = [*SISA_SCALE, "worker", str(run), f"zero_stage={stage}", "--device", "cpu"]
    place = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    done = subprocess.run(command, env=os.environ | place, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found, expected = metrics(run), metrics(GOLDEN / "run")
    assert [line["step"] for line in found] == list(range(1, 13))
    assert [line["attempt"] for line in found] == [1] * 8 + [2] * 4
    assert [line["stream_digest"] for line in found] == [line["stream_digest"] for line in expected]
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in expected], abs=1e-6)
    norms = [line["gradient_norm"] for line in expected]
    assert [line["gradient_norm"] for line in found] == pytest.approx(norms, rel=1e-5)


def test_files_are_read(run: Path) -> None:
    code, output = run_command("status", run)
    assert code == 0, output
    assert "finished" in output
    code, output = run_command("report", run)
    assert code == 0, output
    assert (run / "report.html").exists()
    code, output = run_command("data", "verify", run.parent / "data")
    assert code == 0, output


def test_checkpoint_is_evaluated_as_then(run: Path) -> None:
    code, output = run_command("evaluate", run, "--tasks", "loss", "--device", "cpu")
    assert code == 0, output
    assert "5.41 " in output
