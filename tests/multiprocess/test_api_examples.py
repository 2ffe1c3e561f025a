"""The examples of docs/python-api.md, run in order."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conversion_cases import recorded

import sisa_scale

ROOT = Path(__file__).parents[2]


def test_every_example_runs(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python-api.md").read_text(), re.DOTALL)
    (tmp_path / "runs").mkdir()
    recorded(runs / "stage1", tmp_path / "runs" / "tiny")
    shutil.copy(ROOT / "tests" / "golden" / "scaling" / "gemstones_hot.csv", tmp_path / "runs.csv")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    for name in set(sisa_scale.__all__) - {"TrainedModel"}:
        assert any(f"{name}(" in block for block in blocks), name
    assert names["trained"].step == 12
    assert len(names["run"].steps) == 12
