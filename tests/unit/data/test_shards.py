import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import webdataset
from data_sets import reader_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sisa_scale.data.manifest import Manifest, SplitInfo, TokenizerInfo, load_manifest
from sisa_scale.data.read.reader import ShardReader
from sisa_scale.data.read.storage import LocalStorage
from sisa_scale.data.shards import SplitWriter
from sisa_scale.errors import DataError

BLOCK_TOKENS = 256


def write(directory: Path, pieces: list[np.ndarray], dtype: str = "<u2", vocab_size: int = 65536) -> Manifest:
    writer = SplitWriter(directory, "train", dtype, BLOCK_TOKENS, blocks_per_shard=2)
    for piece in pieces:
        writer.add(piece.astype(dtype))
    shards = writer.close()
    num_tokens = sum(piece.size for piece in pieces)
    split = SplitInfo(1, num_tokens, 0, sum(shard.num_blocks for shard in shards), 0.0, shards)
    return Manifest(
        dtype, BLOCK_TOKENS, 0, 0, 0.0, TokenizerInfo("tokenizer.json", "", vocab_size, ""), (), {"train": split}
    )


@given(sizes=st.lists(st.integers(0, 700), max_size=5).filter(lambda sizes: sum(sizes) > 1), wide=st.booleans())
@settings(deadline=None, max_examples=30)
def test_every_token_is_a_target_once(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], wide: bool) -> None:
    directory = tmp_path_factory.mktemp("shards")
    stream = np.random.default_rng(0).integers(0, 65536, sum(sizes))
    manifest = write(directory, np.split(stream, np.cumsum(sizes)[:-1]), "<u4" if wide else "<u2")
    reader = ShardReader(LocalStorage(directory), manifest, "train")
    num_blocks = manifest.split("train").num_blocks
    assert num_blocks == -(-(stream.size - 1) // BLOCK_TOKENS)
    blocks = [reader.block(number) for number in range(num_blocks)]
    assert np.concatenate([stream[:1], *(block[1:] for block in blocks)]).tolist() == stream.tolist()
    assert all(before[-1] == after[0] for before, after in pairwise(blocks))
    for sequence_tokens in (1, 64, 256):
        for number in range((stream.size - 1) // sequence_tokens):
            block, row = divmod(number, BLOCK_TOKENS // sequence_tokens)
            expected = stream[number * sequence_tokens : (number + 1) * sequence_tokens + 1]
            assert reader.sequence(block, row, sequence_tokens).tolist() == expected.tolist()


def test_shards_are_plain_webdataset(built: Path) -> None:
    manifest = load_manifest(built)
    reader = reader_of(built)
    urls = [str(built / shard.name) for shard in manifest.split("train").shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [f"{number:08d}" for number in range(len(samples))]
    assert len(samples) == manifest.split("train").num_blocks
    for number, sample in enumerate(samples):
        assert sample["npy"].dtype == np.dtype("<u2")
        np.testing.assert_array_equal(sample["npy"], reader.block(number))


def test_headers_hold_no_time_and_the_index_is_inside(built: Path) -> None:
    with tarfile.open(built / "train-000000.tar") as archive:
        members = archive.getmembers()
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {(0, 0, 0, "")}
        inside = archive.extractfile("__index__")
        assert inside is not None
        assert inside.read() == (built / "train-000000.idx.json").read_bytes()
    assert members[-1].name == "__index__"


def test_rows_are_bounded(built: Path) -> None:
    reader = reader_of(built)
    for block, row in ((0, 4), (0, -1), (10**6, 0), (-1, 0)):
        with pytest.raises(IndexError):
            reader.sequence(block, row, 64)


def test_flipped_bit_is_found_on_first_touch(dataset: Path, flip_bit: Callable[[Path, int], None]) -> None:
    index = json.loads((dataset / "train-000001.idx.json").read_text())
    offset, _, _ = index["blocks"][2]
    flip_bit(dataset / "train-000001.tar", offset + 300)
    reader = reader_of(dataset)
    reader.block(8)
    with pytest.raises(DataError, match=rf"train-000001\.tar, member 00000009\.npy, offset {offset}.*copy it again"):
        reader.sequence(9, 0, 64)


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    manifest = write(tmp_path, [np.array([1, 2, 300, 4])], vocab_size=300)
    with pytest.raises(DataError, match="the token id 300; ids are below 300"):
        ShardReader(LocalStorage(tmp_path), manifest, "train").block(0)


def test_damage_after_the_manifest_was_read(dataset: Path) -> None:
    manifest = load_manifest(dataset)
    path = dataset / "train-000000.tar"
    raw = path.read_bytes()
    path.write_bytes(raw[:-512])
    with pytest.raises(DataError, match="the manifest says"):
        ShardReader(LocalStorage(dataset), manifest, "train").block(0)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="found 0 bytes"):
        ShardReader(LocalStorage(dataset), manifest, "train").block(0)
    path.unlink()
    with pytest.raises(DataError, match="cannot be opened"):
        ShardReader(LocalStorage(dataset), manifest, "train").block(0)


def of_version_1(manifest: Manifest) -> Manifest:
    splits = {
        name: replace(split, shards=tuple(replace(shard, index_sha256="") for shard in split.shards))
        for name, split in manifest.splits.items()
    }
    return replace(manifest, splits=splits)


def test_bad_indexes_are_refused(dataset: Path) -> None:
    path = dataset / "train-000000.idx.json"
    index = json.loads(path.read_text())
    index["blocks"][0], index["blocks"][1] = index["blocks"][1], index["blocks"][0]
    for text, said in ((json.dumps(index), "another layout"), ("{}", "no index"), ('{"version": ', "no index")):
        path.write_text(text)
        with pytest.raises(DataError, match=r"train-000000\.idx\.json: found the SHA-256"):
            reader_of(dataset).block(0)
        manifest = of_version_1(load_manifest(dataset))
        with pytest.raises(DataError, match=rf"train-000000\.idx\.json: found .*{said}"):
            ShardReader(LocalStorage(dataset), manifest, "train").block(0)
