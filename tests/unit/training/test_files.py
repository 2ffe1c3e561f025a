import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sisa_scale.files import atomic_writer, remove_abandoned, sha256_file, write_json, write_text


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "deep" / "file"

    def fail() -> None:
        with atomic_writer(path) as stream:
            stream.write(b"new")
            raise error

    with pytest.raises(error):
        fail()
    assert list(path.parent.iterdir()) == []
    path.write_bytes(b"old")
    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_writer(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_text_and_json_come_back(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "naïve — 鯨\n")
    assert (tmp_path / "text").read_bytes() == "naïve — 鯨\n".encode()
    write_json(tmp_path / "json", {"a": [1, None, "é"]})
    assert json.loads((tmp_path / "json").read_text()) == {"a": [1, None, "é"]}


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_checksums(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "file").write_bytes(content[:size])
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content[:size]).hexdigest()


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from sisa_scale.files import atomic_writer\n"
        "with atomic_writer(Path(sys.argv[1])) as stream: stream.write(b'x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "file.json")], check=False)
    assert done.returncode == -signal.SIGKILL
    (abandoned,) = tmp_path.iterdir()
    others = [tmp_path / name for name in (".config", f".a.elsewhere.{1 << 22}.tmp", f".b.{platform.node()}.x.tmp")]
    others.append(tmp_path / f".c.{platform.node()}.{os.getpid()}.tmp")
    for path in others:
        path.touch()
    old = tmp_path / ".d.elsewhere.7.tmp"
    old.touch()
    os.utime(old, (time.time() - 4000,) * 2)
    folder = tmp_path / f".step.{platform.node()}.{1 << 22}.tmp"
    folder.mkdir()
    remove_abandoned(tmp_path)
    assert not abandoned.exists()
    assert sorted(tmp_path.iterdir()) == sorted([*others, folder])
