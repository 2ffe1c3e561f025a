"""The examples of docs/python-api.md as one program, run in order; training is real."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from conversion_cases import recorded
from processes import metrics

import sisa_scale

ROOT = Path(__file__).parents[2]
NEEDS_A_CLUSTER = "# on a cluster\n"
CHECKS = """
assert trained.step == 12
assert found.state == "finished" and found.step == found.checkpoint.step == 14 and found.checkpoint.is_verified
assert [attempt.outcome for attempt in open_run("runs/new").attempts] == ["finished", "finished"]
"""


def test_every_example_runs(runs: Path, tmp_path: Path, write_recipe: Callable[[Path], Path]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python-api.md").read_text(), re.DOTALL)
    for name in set(sisa_scale.__all__) - {"TrainedModel"}:
        assert any(f"{name}(" in block for block in blocks), name
    (tmp_path / "runs").mkdir()
    recorded(runs / "stage1", tmp_path / "runs" / "tiny")
    write_recipe(tmp_path)
    shutil.copy(ROOT / "tests" / "golden" / "scaling" / "gemstones_hot.csv", tmp_path / "runs.csv")
    program = "\n".join(block for block in blocks if not block.startswith(NEEDS_A_CLUSTER))
    for block in blocks:
        compile(block, "docs/python-api.md", "exec")
    (tmp_path / "examples.py").write_text(program + CHECKS)
    done = subprocess.run(
        [sys.executable, "examples.py"], cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "starting 2 workers on cpu" in done.stdout
    # What Ray's workers trained is what ranks without Ray did.
    trained, alone = metrics(tmp_path / "runs" / "new"), metrics(runs / "stage1")
    assert [line["loss"] for line in trained[:12]] == [line["loss"] for line in alone]
    assert len(trained) == 14
