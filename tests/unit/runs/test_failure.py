"""An error of a worker reaches the driver with its nearest public class, its words and its exit code."""

import ast
import importlib
import json
import pickle
from pathlib import Path

import pytest

import sisa_scale
from sisa_scale import errors
from sisa_scale.errors import CheckpointError, ConfigError, Problem, SisaScaleError
from sisa_scale.runs.failure import clear_failure, has_failure, note_failure, raise_failure

PACKAGE = Path(sisa_scale.__file__).parent
PROBLEMS = (Problem("a", "b", "c", "d."), Problem("/x/ü", "1", "2", "3."))


def _all_errors() -> list[type[SisaScaleError]]:
    """Return every class of the package whose name ends as those of errors do, and which is one of ours."""
    kinds = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.bases and node.name.endswith("Error"):
                name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
                kind = getattr(importlib.import_module(name), node.name)
                if issubclass(kind, SisaScaleError):
                    kinds[f"{name}.{node.name}"] = kind
    return list(kinds.values())


ALL_ERRORS = _all_errors()


class OtherError(ConfigError):
    """One that a user of the package may define."""

    exit_code = 9


def caught(run_dir: Path) -> SisaScaleError:
    with pytest.raises(SisaScaleError) as found:
        raise_failure(run_dir)
    return found.value


def test_all_errors_are_found() -> None:
    names = {kind.__name__ for kind in ALL_ERRORS}
    assert {"DamageError", "RefusalError", "RunDirectoryError", "TrainingError", "SisaScaleError"} <= names


@pytest.mark.parametrize("kind", [*ALL_ERRORS, OtherError], ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_an_error_crosses(tmp_path: Path, kind: type[SisaScaleError]) -> None:
    error = kind.many(PROBLEMS)
    note_failure(tmp_path, error)
    found = caught(tmp_path)
    assert isinstance(error, type(found))
    assert type(found).__module__ == "sisa_scale.errors"
    assert not any(base.__module__ == "sisa_scale.errors" for base in kind.__mro__[: kind.__mro__.index(type(found))])
    assert (found.exit_code, found.problems, str(found)) == (error.exit_code, error.problems, str(error))


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_an_error_comes_back_from_another_process(kind: type[SisaScaleError]) -> None:
    error = kind.many(PROBLEMS)
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), found.problems, found.exit_code) == (kind, PROBLEMS, kind.exit_code)


def test_a_note_is_left_and_removed(tmp_path: Path) -> None:
    assert not has_failure(tmp_path)
    raise_failure(tmp_path)
    note_failure(tmp_path, CheckpointError.at("a", found="b", allowed="c", remedy="d"))
    assert has_failure(tmp_path)
    clear_failure(tmp_path)
    clear_failure(tmp_path)
    assert not has_failure(tmp_path)


def test_a_note_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "failure.json").write_text(json.dumps({"type": "DataError", "problems": [["a", "b", "c", "d"]]}))
    found = caught(tmp_path)
    assert (type(found), found.exit_code, str(found)) == (errors.DataError, 3, "a: found b; c. d")
    (tmp_path / "failure.json").write_text(json.dumps({"type": "DamageError", "problems": [["a", "b", "c", "d"]]}))
    assert (type(caught(tmp_path)), caught(tmp_path).exit_code) == (SisaScaleError, 1)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"type": "DataError"}', '{"type": "Problem", "problems": [[1]]}']
)
def test_a_note_that_cannot_be_read_is_an_error_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "failure.json").write_text(text)
    assert "a note that cannot be read" in str(caught(tmp_path))
