"""Runs that several tests look at."""

from collections.abc import Callable
from pathlib import Path

import pytest
from processes import start_workers


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, write_recipe: Callable[[Path], Path]) -> Path:
    """The same twelve steps on two workers under every ZeRO stage, and saved by the clock; and twice on one worker.

    By name in one folder.
    """
    root = tmp_path_factory.mktemp("runs")
    recipe = write_recipe(root)
    # Scores before the first step under stage 3 alone: no loss may differ for them.
    jobs = [
        ("train", recipe, [f"run_dir={root}/stage{n}", f"zero_stage={n}", f"evaluation.at_start={n == 3}"])
        for n in range(4)
    ]
    by_clock = ["checkpoint.every_steps=0", "checkpoint.every_seconds=1e-9", "keep_last=2", "keep_every_steps=4"]
    jobs.append(("train", recipe, [f"run_dir={root}/by-clock", *by_clock]))
    start_workers(2, jobs)
    alone = [("train", recipe, [f"run_dir={root}/one-worker"])]
    alone.append(("train", recipe, [f"run_dir={root}/without-last", "checkpoint.at_end=false"]))
    start_workers(1, alone)
    return root
