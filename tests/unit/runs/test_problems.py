import errno
import os
from pathlib import Path

import pytest

from sisa_scale.errors import CheckpointError
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.failure import note_failure
from sisa_scale.runs.logs.jsonl import append_line, read_lines
from sisa_scale.runs.problems import RunDirectoryError, file_errors
from sisa_scale.runs.stop_request import write_stop


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "a full disk"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "a read-only file system"),
        (errno.EACCES, "no permission"),
        (errno.EIO, "a device that fails to read or write"),
        (errno.ENAMETOOLONG, "File name too long"),
    ],
)
def test_the_system_speaks_our_words(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(RunDirectoryError, match=words) as caught, file_errors(tmp_path / "log"):
        raise OSError(number, os.strerror(number))
    assert (caught.value.exit_code, caught.value.problems[0].where) == (4, str(tmp_path / "log"))
    assert isinstance(caught.value.__cause__, OSError)


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(KeyError), file_errors(tmp_path):
        raise KeyError


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunDirectoryError, match="a file where a directory should be"):
        RunDirectory(tmp_path / "run").create()
    with pytest.raises(RunDirectoryError, match="a file where a directory should be"):
        RunDirectory(tmp_path / "run" / "deeper").create()
    with pytest.raises(RunDirectoryError):
        write_stop(tmp_path / "run" / "stop", "interrupt")
    with pytest.raises(RunDirectoryError):
        note_failure(tmp_path / "run", CheckpointError())


def test_a_directory_where_a_log_should_be(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(RunDirectoryError, match="a directory where a file should be"):
        append_line(tmp_path / "log", {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("{}\n")
    (tmp_path / "log").chmod(0)
    with pytest.raises(RunDirectoryError, match="no permission"):
        list(read_lines(tmp_path / "log"))
    with pytest.raises(RunDirectoryError, match="no permission"):
        append_line(tmp_path / "log", {})
