import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sisa_scale.checkpoint.problems import DamageError
from sisa_scale.checkpoint.storage import MANIFEST_NAME
from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.checkpoint.verifying import Copies, Found, newest_sound
from sisa_scale.errors import CheckpointError

Save = Callable[..., None]
Damage = Callable[[Path], None]
_serial = itertools.count()


@pytest.fixture(params=["directory", "local://"])
def store(request: pytest.FixtureRequest, tmp_path: Path, save: Save) -> CheckpointStore:
    """Three checkpoints of two ranks each."""
    where = None if request.param == "directory" else f"local://{tmp_path}/elsewhere"
    store = CheckpointStore(tmp_path / "run", where)
    for step in (1, 2, 3):
        save(store, step)
    return store


def folder(store: CheckpointStore, step: int) -> Path:
    return Path(str(store.location(step)).removeprefix("local://"))


def find(store: CheckpointStore, gather: Callable[[Any], list[Any]] = lambda value: [value]) -> Found | None:
    copies = Copies()
    try:
        return newest_sound(store, copies, gather)
    finally:
        copies.close()


def part(checkpoint: Path, rank: int) -> Path:
    return sorted(checkpoint.glob("rank_*"))[rank]


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def edit(checkpoint: Path) -> None:
    body = json.loads((checkpoint / MANIFEST_NAME).read_text())
    (checkpoint / MANIFEST_NAME).write_text(json.dumps({**body, "tokens": 1}))


DAMAGES: dict[str, tuple[Damage, str]] = {
    "flipped bit": (lambda c: flip(part(c, 1)), "SHA-256"),
    "flipped bit in the other part": (lambda c: flip(part(c, 0)), "SHA-256"),
    "truncated part": (lambda c: truncate(part(c, 1)), "bytes"),
    "empty part": (lambda c: part(c, 0).write_bytes(b""), "0 bytes"),
    "missing part": (lambda c: part(c, 1).unlink(), "no such file"),
    "torn manifest": (lambda c: truncate(c / MANIFEST_NAME), "unreadable JSON"),
    "empty manifest": (lambda c: (c / MANIFEST_NAME).write_text(""), "unreadable JSON"),
    "flipped manifest": (lambda c: flip(c / MANIFEST_NAME), "manifest"),
    "edited manifest": (edit, "does not match its own checksum"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_one_before_a_damaged_one_is_taken(store: CheckpointStore, name: str) -> None:
    damage, says = DAMAGES[name]
    sound = find(store)
    assert sound is not None
    assert (sound.manifest.step, sound.damaged) == (3, ())
    damage(folder(store, 3))
    found = find(store)
    assert found is not None
    assert found.manifest.step == 2
    assert [damaged.step for damaged in found.damaged] == [3]
    assert says in str(found.damaged[0].problems[0])
    damage(folder(store, 2))
    found = find(store)
    assert found is not None
    assert (found.manifest.step, [damaged.step for damaged in found.damaged]) == (1, [3, 2])


@pytest.mark.parametrize("name", DAMAGES)
def test_if_all_are_damaged_each_is_listed_and_none_is_touched(store: CheckpointStore, name: str) -> None:
    damage, says = DAMAGES[name]
    for step in (1, 2, 3):
        damage(folder(store, step))
    for _ in range(2):  # a second try finds what the first did, rather than a run without checkpoints
        with pytest.raises(CheckpointError, match="3 checkpoints, all of them damaged") as caught:
            find(store)
        assert str(caught.value).count(says) >= 3
    assert store.steps() == [1, 2, 3]


def test_a_lost_manifest_is_damage_in_a_directory(tmp_path: Path, save: Save) -> None:
    store = CheckpointStore(tmp_path / "run")
    for step in (1, 2):
        save(store, step)
    (store.path(2) / MANIFEST_NAME).unlink()
    found = find(store)
    assert found is not None
    assert (found.manifest.step, found.damaged[0].step) == (1, 2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(data=st.data())
def test_any_flipped_bit_of_any_file_is_noticed(save: Save, tmp_path: Path, data: st.DataObject) -> None:
    store = CheckpointStore(tmp_path / str(next(_serial)))
    for step in (1, 2):
        save(store, step)
    path = data.draw(st.sampled_from(sorted(store.path(2).iterdir())))
    raw = bytearray(path.read_bytes())
    end = len(raw) - (path.name == MANIFEST_NAME)  # the last byte of a manifest is the end of its line
    raw[data.draw(st.integers(0, end - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    found = find(store)
    assert found is not None
    assert (found.manifest.step, len(found.damaged)) == (1, 1)


def test_what_another_rank_finds_counts(store: CheckpointStore) -> None:
    answers = iter([[[3, 2, 1]], [None, DamageError.at("x", found="y", allowed="z", remedy="w")]])
    found = find(store, lambda value: next(answers, [value, None]))
    assert found is not None
    assert (found.manifest.step, [str(p) for p in found.damaged[0].problems]) == (2, ["x: found y; z. w"])


def test_what_cannot_be_read_now_is_not_passed_over(tmp_path: Path, save: Save) -> None:
    store = CheckpointStore(tmp_path / "run")
    for step in (1, 2):
        save(store, step)
    (store.path(2) / MANIFEST_NAME).unlink()
    (store.path(2) / MANIFEST_NAME).mkdir()
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        find(store)
    assert not isinstance(caught.value, DamageError)


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    assert find(CheckpointStore(tmp_path)) is None


def test_each_of_two_ranks_verifies_its_share(tmp_path: Path, save: Save) -> None:
    store = CheckpointStore(tmp_path / "run")
    save(store, 1)
    flip(part(store.path(1), 1))
    manifest = store.newest_readable()[1]  # type: ignore[index]
    Copies((0, 2)).fetch(store.location(1), manifest)
    with pytest.raises(DamageError, match="rank_00001"):
        Copies((1, 2)).fetch(store.location(1), manifest)


def test_local_copies_are_shared_and_removed(tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp" / "sisa-scale-abc-killed").mkdir(parents=True)
    store = CheckpointStore(tmp_path / "run", f"local://{tmp_path}/elsewhere")
    save(store, 1)
    manifest = store.newest_readable()[1]  # type: ignore[index]
    Copies.remove("sisa-scale-abc-*")
    first, second = Copies((0, 2), "sisa-scale-abc-me"), Copies((1, 2), "sisa-scale-abc-me")
    directory = first.fetch(store.location(1), manifest)
    assert second.fetch(store.location(1), manifest) == directory
    assert sorted(path.name for path in directory.iterdir()) == sorted(info.name for info in manifest.files)
    first.close()
    second.close()
    assert list((tmp_path / "tmp").iterdir()) == []
