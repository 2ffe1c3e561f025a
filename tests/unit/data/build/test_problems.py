"""What the operating system refuses ends a build in a DataError, and the same command goes on."""

import errno
from functools import partial
from pathlib import Path

import pytest
from data_sets import contents

from sisa_scale.data.build import unit_work
from sisa_scale.data.build.pipeline import build_dataset
from sisa_scale.data.build.shards.staging import staging_path
from sisa_scale.data.problems import os_errors
from sisa_scale.errors import DataError

build = partial(build_dataset, block_tokens=1 << 12, heldout_fraction=0.1, unit_bytes=15_000, resumable=True)


def test_a_full_disk_ends_a_build_that_then_goes_on(
    corpus: Path, tokenizer_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = partial(build, [corpus], tokenizer=tokenizer_path)
    run(out=tmp_path / "whole")
    original, num_written = unit_work.write_json, 0

    def write(path: Path, value: object) -> None:
        nonlocal num_written
        num_written += 1
        if num_written > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, value)

    monkeypatch.setattr(unit_work, "write_json", write)
    with pytest.raises(DataError, match=r"found a full disk.*run the same command again"):
        run(out=tmp_path / "out")
    monkeypatch.setattr(unit_work, "write_json", original)
    said: list[str] = []
    run(out=tmp_path / "out", announce=said.append)
    assert any("units are done already" in text for text in said)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_places_that_cannot_be_written_are_named(corpus: Path, tokenizer_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file" / "out", Path("/proc/nowhere/out")):
        with pytest.raises(DataError) as caught:
            build([corpus], tokenizer=tokenizer_path, out=out)
        assert caught.value.exit_code == 3
        assert str(out.parent) in str(caught.value)
    for out in (Path(), Path("/")):
        assert staging_path(out).name
        with pytest.raises(DataError, match="an existing file or directory"):
            build([corpus], tokenizer=tokenizer_path, out=out)
    with pytest.raises(DataError, match="found a file where a directory should be"):
        build([corpus], tokenizer=tokenizer_path, out=tmp_path / "file" / "out")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.ENAMETOOLONG])
def test_every_refusal_names_the_file(number: int) -> None:
    with pytest.raises(DataError, match=r"a/b: found .*Is|a/b: found .*then run"), os_errors("here"):
        raise OSError(number, "words", "a/b")
    with pytest.raises(DataError, match="here: found"), os_errors("here"):
        raise OSError(number, "words")
