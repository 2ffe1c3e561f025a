import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sisa_scale.checkpoint.manifest import (
    MANIFEST_NAME,
    Manifest,
    SliceInfo,
    read_manifest,
    verify_files,
    write_manifest,
)
from sisa_scale.checkpoint.problems import DamageError
from sisa_scale.errors import CheckpointError

WriteCheckpoint = Callable[..., Manifest]


@pytest.fixture
def manifest(write_checkpoint: WriteCheckpoint, tmp_path: Path) -> Manifest:
    return write_checkpoint(tmp_path, cuts=[2, 5], world_size=2)


def test_it_comes_back(manifest: Manifest, tmp_path: Path) -> None:
    assert read_manifest(tmp_path) == manifest
    verify_files(tmp_path, manifest.files)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.data())
def test_any_flipped_bit_is_noticed(manifest: Manifest, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / MANIFEST_NAME
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 2))  # the last byte is the end of the line
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        path.write_bytes(raw)
        with pytest.raises(DamageError):
            read_manifest(tmp_path)
    finally:
        write_manifest(tmp_path, manifest)


def test_edits_are_refused(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / MANIFEST_NAME
    body = json.loads(path.read_text())
    path.write_text(json.dumps({**body, "step": 8}))
    with pytest.raises(CheckpointError, match="does not match its own checksum") as caught:
        read_manifest(tmp_path)
    assert caught.value.exit_code == 4
    assert "newest sound checkpoint" in str(caught.value)
    path.write_text(json.dumps(body, indent=2))  # another layout of the same content
    assert read_manifest(tmp_path) == manifest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unreadable JSON"),
        ("{", "unreadable JSON"),
        ("[]", "no mapping"),
        ("{}", "does not match its own checksum"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(DamageError, match=message):
        read_manifest(tmp_path)


def test_another_version_is_whole_and_refused(tmp_path: Path) -> None:
    body = {"format": "sisa-scale-checkpoint", "version": 99}
    body["sha256"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(body))
    with pytest.raises(CheckpointError, match="version 99") as caught:
        read_manifest(tmp_path)
    assert not isinstance(caught.value, DamageError)


def test_one_without_skipped_steps_is_read(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / MANIFEST_NAME
    body = json.loads(path.read_text())
    assert body.pop("skipped_steps") == 0
    del body["sha256"]
    body["sha256"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(body))
    assert read_manifest(tmp_path) == manifest


def test_no_manifest_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DamageError, match="no such file"):
        read_manifest(tmp_path)


def test_what_cannot_be_read_now_is_not_called_damaged(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).unlink()
    (tmp_path / MANIFEST_NAME).mkdir()
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        read_manifest(tmp_path)
    assert not isinstance(caught.value, DamageError)


def first(manifest: Manifest, name: str) -> SliceInfo:
    return next(piece for piece in manifest.slices if (piece.kind, piece.name, piece.start) == ("exp_avg", name, 2))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda m: [s for s in m.slices if s != first(m, "bias")], "exp_avg of bias: 2 of 5 elements"),
        (lambda m: [s for s in m.slices if s != first(m, "embedding")], "exp_avg of embedding: gap or overlap at elem"),
        (lambda m: [*m.slices, first(m, "bias")], "exp_avg of bias: gap or overlap"),
        (lambda m: [*m.slices, replace(first(m, "bias"), start=1, length=1)], "exp_avg of bias: gap or overlap"),
        (lambda m: [*m.slices, replace(first(m, "bias"), start=5, length=1)], "exp_avg of bias: 6 of 5 elements"),
        (lambda m: [s for s in m.slices if s.name != "scalar"], "weight of scalar: 0 of 1 elements"),
        (lambda m: [s for s in m.slices if s.kind != "exp_avg_sq"], "exp_avg_sq of bias: 0 of 5"),
    ],
)
def test_gaps_and_overlaps_are_found(
    manifest: Manifest, tmp_path: Path, damage: Callable[[Manifest], list[SliceInfo]], problem: str
) -> None:
    assert manifest.coverage_problems() == []
    damaged = replace(manifest, slices=tuple(damage(manifest)))
    assert any(line.startswith(problem) for line in damaged.coverage_problems())
    write_manifest(tmp_path, damaged)
    with pytest.raises(DamageError, match="covered once, without gaps"):
        read_manifest(tmp_path)


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(("damage", "message"), [(delete, "no such file"), (truncate, "bytes"), (flip, "SHA-256")])
@pytest.mark.parametrize("rank", [0, 1])
def test_damaged_files_are_found(
    manifest: Manifest, tmp_path: Path, rank: int, damage: Callable[[Path], None], message: str
) -> None:
    damage(tmp_path / manifest.files[rank].name)
    with pytest.raises(DamageError, match=f"rank_0000{rank}.safetensors: found .*{message}"):
        verify_files(tmp_path, manifest.files)
    verify_files(tmp_path, manifest.files[1 - rank : 2 - rank])


@pytest.mark.parametrize("has_states", [True, False])
def test_a_manifest_that_records_no_states_has_those_of_adamw_or_none(
    manifest: Manifest, tmp_path: Path, has_states: bool
) -> None:
    kept = [piece for piece in manifest.slices if has_states or piece.kind == "weight"]
    body = json.loads(replace(manifest, slices=tuple(kept)).to_text())
    del body["optimizer_states"], body["sha256"]
    body["sha256"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(body))
    found = read_manifest(tmp_path)
    assert found.optimizer_states == (manifest.optimizer_states if has_states else {})
    assert found.has_optimizer_states is has_states


def test_states_of_some_parameters_alone_are_whole(manifest: Manifest) -> None:
    states = {**manifest.optimizer_states, "bias": ("exp_avg",), "scalar": ()}
    pieces = tuple(s for s in manifest.slices if s.kind in ("weight", *states[s.name]))
    some = replace(manifest, optimizer_states=states, slices=pieces)
    assert some.coverage_problems() == []
    assert set(some.tensors) == {(piece.kind, piece.name) for piece in pieces}
    assert replace(some, slices=pieces[:-1]).coverage_problems() != []
