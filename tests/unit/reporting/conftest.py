"""A synthetic run directory."""

from collections.abc import Callable
from pathlib import Path

import pytest
from run_cases import write_run


@pytest.fixture(name="write_run")
def _write_run(tmp_path: Path) -> Callable[..., Path]:
    return lambda folder="run", **settings: write_run(tmp_path / folder, **settings)
