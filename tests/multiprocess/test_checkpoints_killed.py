"""Ranks that die or fail in the middle of a save: what was there before is what the next attempt takes."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoint_ranks import save

from sisa_scale.checkpoint.store import CheckpointStore

BEFORE_IT_COUNTS = [
    "checkpoint.part.before_write",
    "checkpoint.part.in_write",
    "checkpoint.part.after_write",
    "checkpoint.part.after_sync",
]
ON_MAIN = ["checkpoint.manifest.before_write", "checkpoint.commit.before_rename"]


def entries(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in Path(store.place.location("")).iterdir())


def hit_of_second_save(name: str) -> int:
    """A part is written in three chunks (header, values, random state), so `in_write` is passed thrice a save."""
    return 5 if name == "checkpoint.part.in_write" else 2


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", BEFORE_IT_COUNTS)
def test_killed_while_it_writes(tmp_path: Path, name: str, rank: int) -> None:
    found = save(tmp_path, [1, 2], faults=f"{name}@rank{rank}#{hit_of_second_save(name)}=kill")
    assert found is None
    store = CheckpointStore(tmp_path)
    assert store.steps() == [1]
    assert any(entry.startswith(".step_00000002") for entry in entries(store)) or name.endswith("before_write")
    assert save(tmp_path, [3], workers=3) == {"found": 1, "errors": [None]}
    assert entries(store) == ["step_00000003", "writer"]


@pytest.mark.parametrize("name", ON_MAIN)
def test_killed_before_it_counts(tmp_path: Path, name: str) -> None:
    assert save(tmp_path, [1, 2], faults=f"{name}@rank0#2=kill") is None
    assert CheckpointStore(tmp_path).steps() == [1]
    assert save(tmp_path, [2]) == {"found": 1, "errors": [None]}
    assert entries(CheckpointStore(tmp_path)) == ["step_00000002", "writer"]


@pytest.mark.parametrize("name", ["checkpoint.commit.after_rename", "checkpoint.prune.in_delete"])
def test_killed_when_it_counts(tmp_path: Path, name: str) -> None:
    hit = 1 if name == "checkpoint.prune.in_delete" else 2
    assert save(tmp_path, [1, 2], faults=f"{name}@rank0#{hit}=kill") is None
    assert CheckpointStore(tmp_path).steps()[-1] == 2
    assert save(tmp_path, []) == {"found": 2, "errors": []}
    assert not [entry for entry in entries(CheckpointStore(tmp_path)) if entry.startswith(".")]


@pytest.mark.parametrize("name", [*BEFORE_IT_COUNTS, *ON_MAIN, "checkpoint.commit.after_rename"])
def test_killed_while_it_uploads(tmp_path: Path, name: str) -> None:
    url = f"local://{tmp_path}/bucket/checkpoints"
    assert save(tmp_path, [1, 2], faults=f"{name}@rank0#{hit_of_second_save(name)}=kill", directory=url) is None
    newest = 2 if name == "checkpoint.commit.after_rename" else 1
    store = CheckpointStore(tmp_path, url)
    assert store.steps()[-1] == newest
    assert save(tmp_path, [3], directory=url, workers=3) == {"found": newest, "errors": [None]}
    assert store.steps() == [3]
    assert not [path for path in (tmp_path / "bucket").rglob("rank_*") if "step_00000003" not in str(path)]


def test_killed_while_it_recovers(tmp_path: Path) -> None:
    assert save(tmp_path, [1]) == {"found": 0, "errors": [None]}
    for name in ("checkpoint.load.before_verify", "checkpoint.load.after_verify"):
        assert save(tmp_path, [2], faults=f"{name}@rank1#1=kill") is None
        assert CheckpointStore(tmp_path).steps() == [1]
    assert save(tmp_path, [2]) == {"found": 1, "errors": [None]}


@pytest.mark.parametrize("action", ["raise_enospc", "raise_eio"])
@pytest.mark.parametrize("name", [*BEFORE_IT_COUNTS, *ON_MAIN])
def test_every_rank_hears_of_a_failed_save_and_the_next_succeeds(tmp_path: Path, name: str, action: str) -> None:
    rank = 0 if name in ON_MAIN else 1
    found = save(tmp_path, [1, 2, 3], faults=f"{name}@rank{rank}#{hit_of_second_save(name)}={action}")
    assert found is not None
    assert [error is None for error in found["errors"]] == [True, False, True]
    assert ("a full disk" if action == "raise_enospc" else "a disk that refuses the data") in found["errors"][1]
    assert entries(CheckpointStore(tmp_path)) == ["step_00000003", "writer"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk that has room for two of the small checkpoints, not three."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=80k", "tmpfs", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_space_is_looked_at_before_anything_is_written(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"x" * 30_000)
    found = save(small_disk, [1, 2])
    assert found is not None
    assert found["errors"][0] is None
    assert "a full disk" in found["errors"][1]
    assert "nothing of it was written" in found["errors"][1]
    assert entries(CheckpointStore(small_disk)) == ["step_00000001", "writer"]


def test_damage_is_passed_over_by_all_ranks(tmp_path: Path) -> None:
    assert save(tmp_path, [1]) is not None
    store = CheckpointStore(tmp_path)
    subprocess.run(["cp", "-r", store.path(1), store.path(2)], check=True)
    for path in store.path(2).glob("rank_00001*"):
        path.write_bytes(path.read_bytes()[:-1])
    assert save(tmp_path, []) == {"found": 1, "errors": []}
    found = save(tmp_path, [], workers=3)
    assert found == {"found": 1, "errors": []}
