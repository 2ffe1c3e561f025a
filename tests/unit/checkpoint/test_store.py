import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from sisa_scale.checkpoint import storage as places
from sisa_scale.checkpoint.manifest import read_manifest, verify_files
from sisa_scale.checkpoint.problems import DamageError
from sisa_scale.checkpoint.storage import MANIFEST_NAME
from sisa_scale.checkpoint.store import CheckpointStore, find_checkpoint, store_in
from sisa_scale.checkpoint.verifying import verified
from sisa_scale.errors import CheckpointError

Save = Callable[..., None]
_serial = itertools.count()


@pytest.fixture(params=["directory", "file://", "local://", "s3://"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    """An empty store in a directory, and through fsspec: on disk and in an object store."""
    if request.param == "directory":
        return CheckpointStore(tmp_path / "run")
    if request.param == "s3://":
        return CheckpointStore(tmp_path / "run", f"{request.getfixturevalue('s3')}/store-{next(_serial)}")
    where = f"{tmp_path}/elsewhere"
    return CheckpointStore(tmp_path / "run", request.param + where)


@pytest.fixture
def local(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "run")


def is_sound(store: CheckpointStore, step: int) -> bool:
    manifest = read_manifest(store.location(step))
    verify_files(verified(store.location(step), manifest), manifest.files)
    return manifest.step == step


def test_the_newest_is_found_by_number(store: CheckpointStore, save: Save) -> None:
    assert (store.steps(), store.newest(), store.newest_readable()) == ([], None, None)
    for step in (30, 5, 200_000_000):
        save(store, step)
    assert store.steps() == [5, 30, 200_000_000]
    assert store.newest() == store.location(200_000_000)
    assert store.newest_readable() == (store.newest(), read_manifest(store.location(200_000_000)))
    assert all(is_sound(store, step) for step in store.steps())


def test_without_its_manifest_it_does_not_exist(store: CheckpointStore, save: Save) -> None:
    save(store, 1)
    with store.place.create(store.part_name(2, 0)) as stream:
        stream.write(b"x")
    assert store.steps() == [1]
    store.claim()
    assert [name for name in store.place.names() if "2" in name and name != "writer"] == []
    assert is_sound(store, 1)


def test_names_that_are_no_checkpoints_are_let_be(local: CheckpointStore, save: Save) -> None:
    save(local, 1)
    (local.place.root / "step_4").mkdir()
    (local.place.root / "step_4" / MANIFEST_NAME).write_text("{}")
    assert local.newest() == local.path(1)
    local.claim()
    assert (local.place.root / "step_4").is_dir()


def test_a_lost_manifest_is_tried_and_not_listed(local: CheckpointStore, save: Save) -> None:
    save(local, 1)
    save(local, 2)
    (local.path(2) / MANIFEST_NAME).unlink()
    assert (local.steps(), local.candidates()) == ([1], [2, 1])


def test_a_step_can_be_saved_again(store: CheckpointStore, save: Save) -> None:
    save(store, 1, world_size=3)
    save(store, 1, world_size=2)
    assert store.steps() == [1]
    assert is_sound(store, 1)
    assert read_manifest(store.location(1)).world_size == 2


def test_the_one_that_was_to_be_replaced_comes_back(local: CheckpointStore, save: Save) -> None:
    save(local, 1)
    local.path(1).rename(local.place.root / f".{local.path(1).name}.{local.writer}.old")  # killed between two renames
    assert local.steps() == []
    local.claim()
    assert is_sound(local, 1)


def test_a_writer_of_an_earlier_attempt_cannot_commit(store: CheckpointStore, save: Save, tmp_path: Path) -> None:
    save(store, 1)
    later = CheckpointStore(tmp_path / "run", None if not store.is_remote else store.place.location(""))
    later.place = store.place
    later.claim()
    with pytest.raises(CheckpointError, match="newer attempt of the run has taken over"):
        save(store, 2)
    assert later.steps() == [1]
    save(later, 2)
    before = read_manifest(later.location(2))
    with pytest.raises(CheckpointError, match="newer attempt"):
        save(store, 2)
    assert read_manifest(later.location(2)) == before
    assert is_sound(later, 2)


def test_claiming_takes_away_what_an_earlier_writer_was_about_to_rename(
    local: CheckpointStore, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = CheckpointStore(local.place.root.parent)
    monkeypatch.setattr(local, "check_writer", later.claim)  # the claim falls between the check and the rename
    with pytest.raises(FileNotFoundError):
        save(local, 1)
    assert later.steps() == []
    assert [path.name for path in local.place.root.iterdir()] == ["writer"]


def test_a_removed_one_is_gone(store: CheckpointStore, save: Save) -> None:
    for step in (1, 2):
        save(store, step)
    store.remove(1)
    assert store.steps() == [2]
    assert is_sound(store, 2)
    assert sorted(store.place.names()) == ["step_00000002", "writer"]


def test_half_a_removed_one_does_not_look_like_a_whole(
    local: CheckpointStore, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die_halfway(path: Path, ignore_errors: bool = False) -> None:
        for part in path.glob("rank_00000*"):
            part.unlink()
            raise OSError("killed")

    for step in (1, 2):
        save(local, step)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
        patch.setattr(places.shutil, "rmtree", die_halfway)
        local.remove(1)
    assert (local.steps(), local.candidates()) == ([2], [2])
    local.claim()
    assert sorted(local.place.names()) == ["step_00000002", "writer"]


def test_abandoning_one_leaves_the_others(store: CheckpointStore, save: Save) -> None:
    save(store, 1)
    with store.place.create(store.part_name(2, 0)) as stream:
        stream.write(b"x")
    store.abandon(2)
    assert not store.place.has(store.part_name(2, 0))
    assert store.steps() == [1]
    assert is_sound(store, 1)


def test_a_damaged_one_is_set_aside_and_kept(store: CheckpointStore, save: Save) -> None:
    for _ in range(2):
        save(store, 1)
        moved_to = store.set_aside(1)
        assert "damaged" in moved_to
        assert store.steps() == []
        store.claim()
    if not store.is_remote:
        names = [path.name for path in Path(store.place.location("")).iterdir()]
        assert sorted(names) == ["step_00000001.damaged", "step_00000001.damaged-2", "writer"]
    else:
        assert store.place.has("step_00000001/manifest.json.damaged")


def test_an_archived_one_no_longer_counts_and_stays_whole(store: CheckpointStore, save: Save) -> None:
    for _ in range(2):
        save(store, 1)
        save(store, 2)
        moved_to = store.archive(2)
        assert "step_00000002.abandoned" in moved_to
        assert (store.steps(), store.candidates()) == ([1], [1])
        store.claim()
        assert find_checkpoint(moved_to)[1].step == 2
        verified(*find_checkpoint(moved_to))
    store.remove(1)
    assert len([name for name in store.place.names() if "abandoned" in name]) == 2


def test_an_older_manifest_is_taken_where_the_newest_is_damaged(local: CheckpointStore, save: Save) -> None:
    for step in (1, 2):
        save(local, step)
    (local.path(2) / MANIFEST_NAME).write_text("{")
    found = local.newest_readable()
    assert found is not None
    assert found[0] == local.path(1)
    (local.path(1) / MANIFEST_NAME).write_text("{}")
    with pytest.raises(CheckpointError) as caught:
        local.newest_readable()
    assert len(caught.value.problems) == 2


def test_a_run_or_a_checkpoint_can_be_named(store: CheckpointStore, save: Save, tmp_path: Path) -> None:
    save(store, 1)
    save(store, 2)
    run_dir = tmp_path / "run"
    run_dir.mkdir(exist_ok=True)
    if store.is_remote or "elsewhere" in str(store.place.location("")):
        (run_dir / "config.yaml").write_text(f"checkpoint: {{directory: '{store.place.location('')}'}}\n")
    assert store_in(run_dir).steps() == [1, 2]
    assert find_checkpoint(run_dir) == (store.location(2), read_manifest(store.location(2)))
    assert find_checkpoint(store.location(1)) == (store.location(1), read_manifest(store.location(1)))


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_any_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="no finished checkpoint"):
        find_checkpoint(tmp_path / name)


def test_a_damaged_checkpoint_is_not_passed_over(local: CheckpointStore, save: Save) -> None:
    save(local, 1)
    save(local, 2)
    (local.path(2) / MANIFEST_NAME).write_text("{}")
    with pytest.raises(DamageError, match="its own checksum"):
        find_checkpoint(local.place.root.parent)
