"""How workers join and leave the others."""

from pathlib import Path

import pytest
from processes import first_error, run_program

from sisa_scale.errors import ConfigError
from sisa_scale.training.engine.communicator import connect


def test_a_worker_that_nobody_placed_says_what_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    for name in ("LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"no LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.*torchrun"):
        connect("cpu")


def test_leaving_ends_well_whatever_threads_still_hold() -> None:
    done = run_program(2, Path(__file__).with_name("leave_program.py"))
    assert done.returncode == 0, first_error(done.stderr)
    assert done.stdout.count("ENDS") == 2
