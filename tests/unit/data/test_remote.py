"""Shards on a real HTTP server, which does what servers do."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import fsspec
import pytest
from data_sets import Server, data_config, open_stream, send, serve

from sisa_scale.data.manifest import load_manifest, read_manifest
from sisa_scale.data.read import storage
from sisa_scale.data.read.cache import BlockCache
from sisa_scale.data.read.heldout import read_heldout
from sisa_scale.data.read.sources import tokenizer_path
from sisa_scale.data.read.verify import verify_dataset
from sisa_scale.errors import ConfigError, DataError

STEPS = 20
BLOCK_BYTES = 2 * 257


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(storage, "LONGEST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(storage, "NUM_ATTEMPTS", 4)


@pytest.fixture
def server(dataset: Path) -> Iterator[Server]:
    with serve(dataset) as server:
        yield server


def remote(server: Server, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return {"location": server.url, "cache_directory": str(tmp_path / "cache"), "cache_bytes": 1 << 20} | changes


def cached(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").glob("??/*") if not path.name.endswith("-index")]


def is_shard(handler: SimpleHTTPRequestHandler) -> bool:
    return handler.path.endswith(".tar")


def test_blocks_are_fetched_once_by_many_readers(server: Server, built: Path, tmp_path: Path) -> None:
    expected = open_stream(built).sha256(0, STEPS)
    with ThreadPoolExecutor(4) as threads:
        streams = [open_stream(**remote(server, tmp_path, loader_workers=2)) for _ in range(4)]
        assert {*threads.map(lambda stream: stream.sha256(0, STEPS, 3), streams)} == {expected}
    split = load_manifest(built).split("train")
    assert server.requests["train-000000.tar"] == split.shards[0].num_blocks
    assert server.requests["train-000000.idx.json"] == 1
    num_read = split.num_blocks - 1  # the last one holds less than a sequence
    assert sum(server.requests[shard.name] for shard in split.shards) == num_read
    before = server.requests.total()
    assert open_stream(**remote(server, tmp_path)).sha256(0, STEPS) == expected
    assert server.requests.total() == before + 1  # the manifest


def test_a_server_without_ranges_gives_each_shard_once(dataset: Path, tmp_path: Path) -> None:
    with serve(dataset, has_ranges=False) as server:
        config = remote(server, tmp_path, loader_workers=0)
        found = open_stream(**config).batch(0, 0, 1).digest
        for step in range(1, 8):
            open_stream(**config).batch(step, 0, 1)
        shards = [name for name in server.requests if name.endswith(".tar")]
        assert {server.requests[name] for name in shards} == {1}
    assert found == open_stream(dataset).batch(0, 0, 1).digest


def test_evaluation_reads_from_the_server(server: Server, dataset: Path, tmp_path: Path) -> None:
    config = data_config(**remote(server, tmp_path))
    assert (read_heldout(config, 64, 5).sequences == read_heldout(data_config(dataset), 64, 5).sequences).all()
    assert tokenizer_path(config).read_bytes() == (dataset / "tokenizer.json").read_bytes()
    assert verify_dataset(server.url).fingerprint == read_manifest(dataset).fingerprint


def drop(handler: SimpleHTTPRequestHandler) -> None:
    handler.close_connection = True


def half_a_body(handler: SimpleHTTPRequestHandler) -> None:
    send(handler, 206, b"x" * (BLOCK_BYTES // 2), claimed=BLOCK_BYTES)


def short_body(handler: SimpleHTTPRequestHandler) -> None:
    send(handler, 206, b"x" * (BLOCK_BYTES // 2))


def wrong_body(handler: SimpleHTTPRequestHandler) -> None:
    send(handler, 206, b"x" * BLOCK_BYTES)


FAULTS = [lambda handler: send(handler, 500, b"sorry"), lambda handler: send(handler, 503, b"later"), drop]
FAULTS += [half_a_body, short_body, wrong_body]
IDS = ["500", "503", "dropped connection", "half a body", "short body", "wrong body"]


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
def test_what_passes_is_retried(
    server: Server,
    built: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[SimpleHTTPRequestHandler], None],
) -> None:
    turns = iter(range(10**6))

    def misbehave(handler: SimpleHTTPRequestHandler) -> bool:
        if not is_shard(handler) or next(turns) % 3 == 2:
            return False
        fault(handler)
        return True

    server.misbehave = misbehave
    monkeypatch.setattr(storage, "NUM_ATTEMPTS", 30)
    stream = open_stream(**remote(server, tmp_path, loader_workers=0))
    expected = [open_stream(built).batch(step, 0, 1).digest for step in range(3)]
    assert [stream.batch(step, 0, 1).digest for step in range(3)] == expected


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
@pytest.mark.parametrize("on_corrupt", ["fail", "skip"])
def test_what_does_not_pass_is_an_error_that_says_where(
    server: Server, tmp_path: Path, fault: Callable[[SimpleHTTPRequestHandler], None], on_corrupt: str
) -> None:
    server.misbehave = lambda handler: is_shard(handler) and (fault(handler), True)[1]
    stream = open_stream(**remote(server, tmp_path, on_corrupt=on_corrupt))
    if fault is wrong_body and on_corrupt == "skip":
        assert (stream.batch(0, 0, 1).targets_BL == -100).all()
        return
    with pytest.raises(DataError) as caught:
        next(stream.batches(range(5), 0, 1))
    assert f"{server.url}/train-00000" in str(caught.value)
    assert "offset" in str(caught.value)
    assert cached(tmp_path) == []


def test_missing_files_are_not_asked_for_again(server: Server, dataset: Path, tmp_path: Path) -> None:
    stream = open_stream(**remote(server, tmp_path))
    for path in dataset.glob("train-*.tar"):
        path.unlink()
    with pytest.raises(DataError, match="no such file"):
        stream.batch(0, 0, 1)
    with pytest.raises(DataError, match=r"nowhere/dataset\.json: found no such file"):
        open_stream(**remote(server, tmp_path, location=f"{server.url}/nowhere"))
    assert server.requests["dataset.json"] == 2


def test_swapped_and_cut_off_shards_on_the_server(server: Server, dataset: Path, tmp_path: Path) -> None:
    for suffix in (".tar", ".idx.json"):
        shutil.copy(dataset / f"train-000001{suffix}", dataset / f"train-000000{suffix}")
    with pytest.raises(DataError, match=r"train-000000\.idx\.json: found the SHA-256"):
        open_stream(**remote(server, tmp_path)).sha256(0, STEPS)
    os.truncate(dataset / "train-000001.tar", 700)
    with pytest.raises(DataError, match=r"train-000001\.tar, offset \d+: found 700 bytes; the manifest says"):
        for block in range(7, 14):
            open_stream(**remote(server, tmp_path / "other")).sources[0].reader.block(block)


@pytest.mark.parametrize("damage", ["flipped", "cut off", "emptied", "longer"])
def test_stale_cache_files_are_fetched_again(server: Server, built: Path, tmp_path: Path, damage: str) -> None:
    expected = open_stream(built).sha256(0, STEPS)
    assert open_stream(**remote(server, tmp_path)).sha256(0, STEPS) == expected
    before = server.requests.total()
    for path in (tmp_path / "cache").glob("??/*"):
        data = path.read_bytes()
        changed = {"flipped": data[:50] + bytes([data[50] ^ 1]) + data[51:], "cut off": data[:-2], "emptied": b""}
        path.write_bytes(changed.get(damage, data + b"more"))
    assert open_stream(**remote(server, tmp_path)).sha256(0, STEPS) == expected
    assert server.requests.total() > before + 1 or damage == "longer"


def test_the_cache_stays_within_its_bytes(server: Server, built: Path, tmp_path: Path) -> None:
    limit = 12 * BLOCK_BYTES
    expected = open_stream(built).sha256(0, STEPS)
    sizes: list[int] = []
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(0.001):
            with suppress(FileNotFoundError):  # evicted between the two calls
                sizes.append(sum(path.stat().st_size for path in cached(tmp_path)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        config = remote(server, tmp_path, cache_bytes=limit, loader_workers=2)
        assert open_stream(**config).sha256(0, STEPS, 2) == expected
    finally:
        is_done.set()
        watcher.join()
    assert 0 < max(sizes) <= limit
    with pytest.raises(ConfigError, match=r"data\.cache_bytes"):
        open_stream(**remote(server, tmp_path, cache_bytes=7 * BLOCK_BYTES))


def test_least_recently_used_goes_first_and_what_is_open_stays(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 100)
    for number in range(5):
        cache.add(f"a{number}", b"x" * 20)
        os.utime(tmp_path / f"a{number}"[:2] / f"a{number}", (number, number))
    held = cache.open("a0")
    assert held is not None
    os.utime(held, (0, 0))
    cache.add("b0", b"y" * 20)
    kept = sorted(path.name for path in tmp_path.glob("??/*"))
    assert "a0" in kept  # oldest, but open
    assert "a1" not in kept
    assert {"a4", "b0"} <= {*kept}
    os.close(held)
    cache.add("c0", b"z" * 90)
    assert [path.name for path in tmp_path.glob("??/*")] == ["c0"]
    assert json.loads((tmp_path / "ledger").read_text()) == 90
    cache.add("d0", b"z" * 101)
    assert not list(tmp_path.glob("d0/*"))
    assert cache.open("d0") is None


def test_a_full_cache_of_open_files_still_reads(server: Server, built: Path, tmp_path: Path) -> None:
    config = remote(server, tmp_path, cache_bytes=8 * BLOCK_BYTES, loader_workers=0)
    first, second = open_stream(**config), open_stream(**config)
    for step in range(4):
        digest = open_stream(built).batch(step, 0, 1).digest
        assert first.batch(step, 0, 1).digest == second.batch(step, 0, 1).digest == digest
    assert sum(path.stat().st_size for path in cached(tmp_path)) <= 8 * BLOCK_BYTES


def test_a_torn_ledger_is_counted_again(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 100)
    cache.add("aa", b"x" * 60)
    (tmp_path / "ledger").write_text("")
    cache.add("bb", b"x" * 60)
    assert [path.name for path in tmp_path.glob("??/*")] == ["bb"]
    assert hashlib.sha256((tmp_path / "bb" / "bb").read_bytes()).hexdigest() == hashlib.sha256(b"x" * 60).hexdigest()


def test_object_stores_go_the_same_way(s3: str, dataset: Path, tmp_path: Path) -> None:
    corpus = f"{s3}/stream/corpus"
    files = fsspec.filesystem("s3")
    files.put(str(dataset), corpus, recursive=True)
    stream = open_stream(corpus, cache_directory=str(tmp_path / "cache"))
    assert stream.sha256(0, STEPS, 2) == open_stream(dataset).sha256(0, STEPS)
    assert verify_dataset(corpus) == verify_dataset(str(dataset))
    files.rm(f"{corpus}/train-000003.tar")
    with pytest.raises(DataError, match=rf"{corpus}/train-000003\.tar"):
        verify_dataset(corpus)


def test_unknown_schemes_say_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing://"):
        open_stream("nothing://there")
