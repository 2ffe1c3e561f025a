"""How workers end."""

from pathlib import Path

from processes import first_error, run_program


def test_leaving_ends_well_whatever_threads_still_hold() -> None:
    done = run_program(2, Path(__file__).with_name("leave_program.py"))
    assert done.returncode == 0, first_error(done.stderr)
    assert done.stdout.count("ENDS") == 2
