"""Workers that share sequences compute what one worker does."""

import json
from pathlib import Path

import pytest
from processes import first_error, run_program
from sharing_cases import CASES

PROGRAM = Path(__file__).parents[2] / "sharing_program.py"


@pytest.fixture(scope="module")
def errors() -> dict[str, dict[str, float]]:
    done = run_program(2, PROGRAM)
    assert done.returncode == 0, first_error(done.stderr)
    lines = [line.removeprefix("FOUND ") for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    return {name: json.loads(found) for name, found in (line.split(": ", 1) for line in lines)}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_those_of_one_worker(errors: dict[str, dict[str, float]], name: str) -> None:
    tolerance = 1e-4 if CASES[name].is_compiled else 1e-10
    assert len(errors[name]) == 3
    assert all(error < tolerance for error in errors[name].values()), errors[name]
