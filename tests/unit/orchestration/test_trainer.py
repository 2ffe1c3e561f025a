"""Which errors of workers would come again."""

from pathlib import Path

import pytest
from run_lines import step_row

from sisa_scale.config import load_config
from sisa_scale.orchestration.trainer import would_come_again
from sisa_scale.runs.directory import RunDirectory


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize("error", [ImportError("no module"), TypeError("a"), KeyError("b"), OutOfMemoryError("c")])
def test_mistakes_and_too_little_memory_come_again(tmp_path: Path, error: Exception) -> None:
    assert would_come_again(tmp_path, error)


@pytest.mark.parametrize("error", [RuntimeError("connection closed by peer"), OSError("a disk"), TimeoutError("late")])
def test_lost_connections_and_disks_may_not(tmp_path: Path, error: Exception) -> None:
    assert not would_come_again(tmp_path, error)


def test_memory_that_gives_out_later_may_suffice_the_next_time(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.begin_attempt(load_config("quickstart").config, ["node:1"], ["node"])
    directory.take_up(0)
    assert would_come_again(tmp_path, OutOfMemoryError())
    directory.add_step(step_row(1))
    assert not would_come_again(tmp_path, OutOfMemoryError())
