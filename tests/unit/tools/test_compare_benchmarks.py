"""What counts as a change between two benchmark runs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[3] / "tools" / "compare_benchmarks.py"
ROW = {"recipe": "a", "tokens/s": 1000, "spread %": 0.4, "peak GB": 10.0}


@pytest.mark.parametrize(
    ("changes", "verdict", "code"),
    [
        ({}, "same", 0),
        ({"tokens/s": 992}, "same", 0),
        ({"tokens/s": 980}, "slower", 1),
        ({"tokens/s": 980, "spread %": 3.0}, "same", 0),
        ({"tokens/s": 1020}, "faster", 0),
        ({"peak GB": 10.5}, "larger", 1),
        ({"peak GB": 9.0}, "smaller", 0),
        ({"recipe": "b"}, "missing", 1),
    ],
)
def test_verdict(changes: dict[str, Any], verdict: str, code: int, tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(json.dumps([ROW]))
    after.write_text(json.dumps([ROW | changes]))
    done = subprocess.run([sys.executable, TOOL, before, after], capture_output=True, text=True, check=False)
    assert verdict in done.stdout
    assert done.returncode == code
