"""`failure.json`: how an error of a worker reaches the person who started the run.

Ray restarts a worker group that raises. That is right for a lost process and wrong for an error that will come again;
such an error leaves a note in the run directory. Ray's controller finds it before it starts workers anew and ends
instead, and the driver raises it.

The note names the nearest class of `sisa_scale.errors`, which is what users know, and keeps words and exit code.
"""

import json
from pathlib import Path
from typing import NoReturn

from sisa_scale import errors
from sisa_scale.errors import Problem, SisaScaleError
from sisa_scale.files import write_json
from sisa_scale.runs.layout import FAILURE
from sisa_scale.runs.problems import file_errors

_PUBLIC = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, SisaScaleError)
}


def note_failure(run_dir: Path, error: SisaScaleError) -> None:
    """Leave the note."""
    public = next(kind for kind in type(error).__mro__ if kind in _PUBLIC.values())
    problems = [[p.where, p.found, p.allowed, p.remedy] for p in error.problems]
    path = run_dir / FAILURE
    with file_errors(path):
        write_json(path, {"type": public.__name__, "exit_code": error.exit_code, "problems": problems})


def has_failure(run_dir: Path) -> bool:
    """Whether a worker has left a note."""
    return (run_dir / FAILURE).exists()


def clear_failure(run_dir: Path) -> None:
    """Remove the note of an earlier attempt."""
    path = run_dir / FAILURE
    with file_errors(path):
        path.unlink(missing_ok=True)


def raise_failure(run_dir: Path) -> None:
    """Raise the error of the note, if there is one."""
    if has_failure(run_dir):
        _raise(run_dir / FAILURE)


def _raise(path: Path) -> NoReturn:
    with file_errors(path):
        text = path.read_text()
    try:
        note = json.loads(text)
        kind = _PUBLIC.get(note["type"], SisaScaleError)
        error = kind.many(Problem(*map(str, fields)) for fields in note["problems"])
        error.exit_code = int(note.get("exit_code", kind.exit_code))
    except (ValueError, TypeError, KeyError) as damage:
        raise SisaScaleError.at(
            path,
            found=f"a note that cannot be read ({type(damage).__name__}: {damage})",
            allowed="a worker leaves the error that ended the run there",
            remedy="See the event `error` in the same directory, remove the cause, then `sisa-scale resume` it.",
        ) from damage
    raise error
