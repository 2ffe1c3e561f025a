"""One life of a run at a time."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sisa_scale.errors import ConfigError
from sisa_scale.runs import owner as owners
from sisa_scale.runs.owner import FencedError, Life, check_fence, check_free, owns, read_owner, take_over

LIVE = """
import sys, time
from pathlib import Path
from sisa_scale.runs.owner import Life
with Life(Path(sys.argv[1])) as life:
    print("alive", flush=True)
    while True:
        time.sleep(0.05)
        life.check()
"""


@pytest.fixture(autouse=True)
def _short_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "_WATCH_SECONDS", 1.5)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the run in tmp_path."""
    command = [sys.executable, "-c", LIVE, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "alive\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_life_is_refused_and_told_what_lives_where_since_when(
    other: subprocess.Popen[str], tmp_path: Path
) -> None:
    owner = read_owner(tmp_path)
    assert owner is not None
    told = re.escape(f"process {other.pid} on {owner.host}, since {owner.since}")
    with pytest.raises(ConfigError, match=f"{told}.*--take-over"):
        Life(tmp_path).__enter__()
    shutil.copytree(tmp_path, tmp_path / "copy")
    check_free(tmp_path / "copy")  # nobody lives in the copy
    other.kill()
    other.wait()
    with Life(tmp_path) as life:
        assert owns(tmp_path, life.token)
    assert list(tmp_path.iterdir()) == [tmp_path / "copy"]


def test_a_life_that_is_taken_over_ends_itself_and_leaves_the_run_alone(
    other: subprocess.Popen[str], tmp_path: Path
) -> None:
    take_over(tmp_path)
    with Life(tmp_path) as life:
        assert "FencedError" in other.communicate(timeout=60)[1]
        check_fence(tmp_path, life.token)
    assert json.loads((tmp_path / "events.jsonl").read_text())["of"].endswith(f":{other.pid}")


def test_a_life_on_another_host_is_known_by_its_signs_whatever_the_clocks_say(
    tmp_path: Path,
) -> None:
    with Life(tmp_path) as life:
        mine = read_owner(tmp_path)
        assert mine is not None
        elsewhere = dataclasses.replace(mine, host="elsewhere")
        (tmp_path / "owner.json").write_text(json.dumps(dataclasses.asdict(elsewhere)))
        with pytest.raises(ConfigError, match="on elsewhere"):
            check_free(tmp_path)
        assert owns(tmp_path, life.token)
    (tmp_path / "owner.json").write_text(json.dumps(dataclasses.asdict(elsewhere)))
    check_free(tmp_path)  # no sign


def test_two_that_begin_at_once_end_as_one(tmp_path: Path) -> None:
    with pytest.raises(FencedError), Life(tmp_path) as first:
        (tmp_path / "owner.json").write_text(json.dumps({**_plain(tmp_path), "token": "another"}))
        until = time.monotonic() + 60
        while first.error is None and time.monotonic() < until:
            threading.Event().wait(0.05)
        first.check()
    assert read_owner(tmp_path) is not None  # the other's stays


def _plain(run_dir: Path) -> dict[str, object]:
    owner = read_owner(run_dir)
    assert owner is not None
    return dataclasses.asdict(owner)
