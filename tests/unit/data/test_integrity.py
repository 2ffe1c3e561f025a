"""Damage in a directory of shards: found before a wrong token is trained on, or skipped in step and on record."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from data_sets import data_config, open_stream, serve

from sisa_scale.data.manifest import load_manifest
from sisa_scale.data.read import reader
from sisa_scale.data.read.stream import DIGEST_MODULUS, TokenStream
from sisa_scale.errors import DataError

NUM_STEPS = 60  # more than an epoch


def flip(directory: Path, block: int) -> None:
    """Change one bit of a block of 256 + 1 tokens in a directory of shards of 7 blocks."""
    shard, inside = divmod(block, 7)
    offset = json.loads((directory / f"train-{shard:06d}.idx.json").read_text())["blocks"][inside][0]
    with (directory / f"train-{shard:06d}.tar").open("r+b") as stream:
        stream.seek(offset + 300)
        byte = stream.read(1)[0]
        stream.seek(offset + 300)
        stream.write(bytes([byte ^ 1]))


def read_all(directory: Path, **changes: Any) -> None:
    for _ in open_stream(directory, **changes).batches(range(NUM_STEPS), 0, 1):
        pass


def swap_shards(dataset: Path) -> str:
    for suffix in (".tar", ".idx.json"):
        shutil.copy(dataset / f"train-000002{suffix}", dataset / f"train-000001{suffix}")
    return r"train-000001\.idx\.json: found the SHA-256 .* the manifest says .* Copy it again"


def swap_shards_without_index(dataset: Path) -> str:
    shutil.copy(dataset / "train-000002.tar", dataset / "train-000001.tar")
    return r"train-000001\.tar, member 000000\d\d\.npy, offset \d+: found tokens with the XXH3 .* copy it again"


def flip_a_bit(dataset: Path) -> str:
    flip(dataset, 9)
    return r"train-000001\.tar, member 00000009\.npy, offset \d+: found tokens with the XXH3 .* copy it again"


def truncate(dataset: Path) -> str:
    os.truncate(dataset / "train-000001.tar", 4096)
    return r"train-000001\.tar: found 4096 bytes; the manifest says \d+ bytes\. Copy it again"


def cut_at_a_member(dataset: Path) -> str:
    path = dataset / "train-000001.tar"
    os.truncate(path, path.stat().st_size - 1024)  # the end-of-archive marker, which tar readers do not miss
    return r"train-000001\.tar: found"


def remove(dataset: Path) -> str:
    (dataset / "train-000001.tar").unlink()
    return r"train-000001\.tar: found a file that cannot be opened or read \(No such file"


DAMAGE = [swap_shards, swap_shards_without_index, flip_a_bit, truncate, cut_at_a_member, remove]


@pytest.mark.parametrize("loader_workers", [0, 2])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_ends_the_run_and_says_where(dataset: Path, damage: Callable[[Path], str], loader_workers: int) -> None:
    message = damage(dataset)
    with pytest.raises(DataError, match=message) as caught:
        read_all(dataset, loader_workers=loader_workers)
    assert type(caught.value) is DataError  # the name under which a worker reports it to the driver


def test_a_manifest_edited_by_hand_is_refused(dataset: Path) -> None:
    path = dataset / "dataset.json"
    path.write_text(path.read_text().replace('"num_blocks": 7', '"num_blocks": 6', 1))
    with pytest.raises(DataError, match="It was changed after the build"):
        open_stream(dataset)


def test_a_shard_that_shrinks_while_it_is_open(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MEMORY_BYTES", 0)
    stream = open_stream(dataset)
    digests = [stream.batch(step, 0, 1).digest for step in range(NUM_STEPS)]
    assert len({*digests}) == NUM_STEPS
    os.truncate(dataset / "train-000000.tar", 1500)
    with pytest.raises(
        DataError, match=r"train-000000\.tar, offset \d+: found \d+ bytes; .* cut off while it was open"
    ):
        for step in range(NUM_STEPS):
            stream.batch(step, 0, 1)


def of_version_1(dataset: Path) -> None:
    """Rewrite the manifest as the first release wrote it."""
    path = dataset / "dataset.json"
    content = json.loads(path.read_text())
    content["version"] = 1
    del content["fingerprint"]
    content.pop("build", None)
    for split in content["splits"].values():
        for shard in split["shards"]:
            del shard["index_sha256"]
    covered = {key: value for key, value in content.items() if key != "sources"}
    covered["tokenizer"] = {key: value for key, value in covered["tokenizer"].items() if key != "name"}
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps(content | {"fingerprint": hashlib.sha256(text.encode()).hexdigest()}))


def test_data_sets_of_the_first_version_are_read_and_checked(dataset: Path, built: Path) -> None:
    of_version_1(dataset)
    assert not load_manifest(dataset).has_index_hashes
    assert open_stream(dataset).sha256(0, 20) == open_stream(built).sha256(0, 20)
    swap_shards(dataset)
    with pytest.raises(DataError, match=r"train-000001\.tar: found the SHA-256"):
        read_all(dataset)


def skipping(directory: Path, **changes: Any) -> tuple[TokenStream, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    return TokenStream(data_config(directory, on_corrupt="skip", **changes), events.append), events


@pytest.mark.parametrize("damage", [swap_shards, swap_shards_without_index, flip_a_bit, truncate])
def test_skipping_is_the_same_for_every_world_size(dataset: Path, built: Path, damage: Callable[[Path], str]) -> None:
    damage(dataset)
    stream, events = skipping(dataset)
    whole = [stream.batch(step, 0, 1) for step in range(NUM_STEPS)]
    for world_size in (2, 3, 5):
        stream, parted_events = skipping(dataset, loader_workers=2)
        ranks = [stream.batches(range(NUM_STEPS), rank, world_size) for rank in range(world_size)]
        for batch, *parts in zip(whole, *ranks, strict=True):
            assert torch.equal(torch.cat([part.tokens_BL for part in parts]), batch.tokens_BL)
            assert torch.equal(torch.cat([part.targets_BL for part in parts]), batch.targets_BL)
            assert sum(part.digest for part in parts) % DIGEST_MODULUS == batch.digest
        assert lost(parted_events) == lost(events)
    intact = [open_stream(built).batch(step, 0, 1) for step in range(NUM_STEPS)]
    for step, (batch, before) in enumerate(zip(whole, intact, strict=True)):
        is_lost = (batch.targets_BL == -100).all(dim=1)
        assert int(is_lost.sum()) == sum(event["num_sequences"] for event in events if event["step"] == step + 1)
        assert torch.equal(batch.tokens_BL[~is_lost], before.tokens_BL[~is_lost])
        assert torch.equal(batch.targets_BL[~is_lost], before.targets_BL[~is_lost])
        assert (batch.tokens_BL[is_lost] == 0).all()
        assert (batch.digest == before.digest) == (not is_lost.any())
    assert any(event["step"] for event in events)


def lost(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted((event["step"], event["block"], row) for event in events for row in event["rows"])


def test_what_was_skipped_is_on_record(dataset: Path) -> None:
    flip_a_bit(dataset)
    stream, events = skipping(dataset)
    for step in range(NUM_STEPS):
        stream.batch(step, 0, 1)
    assert {event["block"] for event in events} == {9}
    assert len({(row, event["step"]) for event in events for row in event["rows"]}) >= 4  # each row, each epoch
    assert events[0].keys() == {
        *("step", "rank", "event", "source", "shard", "block", "offset", "rows", "num_sequences", "reason")
    }
    assert (events[0]["shard"], events[0]["source"]) == ("train-000001.tar", "data")
    assert "XXH3" in events[0]["reason"]
    json.dumps(events)


def test_a_shard_that_is_not_there_is_never_skipped(dataset: Path) -> None:
    remove(dataset)
    with pytest.raises(DataError, match="No such file"):
        read_all(dataset, on_corrupt="skip")


def test_documents_of_a_skipped_sequence_have_no_targets(dataset: Path) -> None:
    flip_a_bit(dataset)
    stream, events = skipping(dataset, documents="separate")
    batches = [stream.batch(step, 0, 1) for step in range(NUM_STEPS)]
    assert all(batch.document_BL is not None and batch.document_BL.shape == batch.tokens_BL.shape for batch in batches)
    rows = sum(int((batch.targets_BL == -100).all(dim=1).sum()) for batch in batches)
    assert rows == sum(event["num_sequences"] for event in events)


def test_version_1_has_no_place_on_a_server(dataset: Path, tmp_path: Path) -> None:
    of_version_1(dataset)
    with serve(dataset) as server, pytest.raises(DataError, match="format version 1"):
        open_stream(server.url, cache_directory=str(tmp_path / "cache"))
