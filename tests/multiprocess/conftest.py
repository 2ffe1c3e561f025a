"""Runs that several tests look at."""

from collections.abc import Callable
from pathlib import Path

import pytest
from processes import start_workers


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, write_recipe: Callable[[Path], Path]) -> Path:
    """The same twelve steps on two workers under every ZeRO stage, and twice on one worker; by name in one folder."""
    root = tmp_path_factory.mktemp("runs")
    recipe = write_recipe(root)
    jobs = [("train", recipe, [f"run_dir={root}/stage{stage}", f"zero_stage={stage}"]) for stage in range(4)]
    start_workers(2, jobs)
    alone = [("train", recipe, [f"run_dir={root}/one-worker"])]
    alone.append(("train", recipe, [f"run_dir={root}/without-last", "checkpoint.at_end=false"]))
    start_workers(1, alone)
    return root
