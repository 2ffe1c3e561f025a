"""How an error of a worker reaches the person who started the run.

Ray restarts a worker group that raises. That is right for a lost process and wrong for an error that will come again;
such an error leaves a note in the run directory. Ray's controller finds it before it starts workers anew (placement.py)
and ends instead, and the driver raises it.
"""

import json
from pathlib import Path

from sisa_scale import errors
from sisa_scale.errors import Problem, SisaScaleError
from sisa_scale.files import write_json

_NAME = "failure.json"


def note_failure(run_dir: Path, error: SisaScaleError) -> None:
    """Leave the note."""
    problems = [[p.where, p.found, p.allowed, p.remedy] for p in error.problems]
    write_json(run_dir / _NAME, {"type": type(error).__name__, "problems": problems})


def has_failure(run_dir: Path) -> bool:
    """Whether a worker has left a note."""
    return (run_dir / _NAME).exists()


def clear_failure(run_dir: Path) -> None:
    """Remove the note of an earlier attempt."""
    (run_dir / _NAME).unlink(missing_ok=True)


def raise_failure(run_dir: Path) -> None:
    """Raise the error of the note, if there is one."""
    if has_failure(run_dir):
        note = json.loads((run_dir / _NAME).read_text())
        raise getattr(errors, note["type"]).many(Problem(*fields) for fields in note["problems"])
