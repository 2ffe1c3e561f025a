import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from data_sets import data_config, open_stream, reader_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sisa_scale.data.build.pipeline import build_dataset
from sisa_scale.data.manifest import load_manifest
from sisa_scale.data.read.heldout import read_heldout
from sisa_scale.data.read.stream import DIGEST_MODULUS, TokenStream
from sisa_scale.errors import ConfigError, DataError

SEQUENCE_TOKENS = 64


@pytest.fixture(scope="module")
def stream(built: Path) -> TokenStream:
    return open_stream(built)


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("token-stream")]


def test_targets_are_the_next_tokens(stream: TokenStream) -> None:
    batch = stream.batch(0, 0, 1)
    assert batch.tokens_BL.shape == batch.targets_BL.shape == (12, SEQUENCE_TOKENS)
    assert batch.tokens_BL.dtype == batch.targets_BL.dtype == torch.int64
    assert batch.tokens_BL.is_contiguous()
    assert batch.targets_BL.is_contiguous()
    assert torch.equal(batch.tokens_BL[:, 1:], batch.targets_BL[:, :-1])


def test_an_epoch_is_every_sequence_of_the_split(built: Path) -> None:
    stream = open_stream(built, sequences=1)
    manifest = load_manifest(built)
    assert stream.sources[0].order.sequences_per_epoch == (manifest.split("train").num_tokens - 1) // SEQUENCE_TOKENS
    reader = reader_of(built)
    expected = [
        reader.sequence(*divmod(number, 256 // SEQUENCE_TOKENS), SEQUENCE_TOKENS).tolist()
        for number in range(stream.sources[0].order.sequences_per_epoch)
    ]
    for epoch in (0, 1):
        batches = [stream.batch(step + epoch * len(expected), 0, 1) for step in range(len(expected))]
        found = [[*batch.tokens_BL[0].tolist(), int(batch.targets_BL[0, -1])] for batch in batches]
        assert found != expected
        assert sorted(found) == sorted(expected)


def test_world_size_changes_nothing(stream: TokenStream) -> None:
    @given(step=st.integers(0, 100), world_size=st.integers(1, 30))
    @settings(deadline=None, max_examples=15)
    def check(step: int, world_size: int) -> None:
        whole = stream.batch(step, 0, 1)
        parts = [stream.batch(step, rank, world_size) for rank in range(world_size)]
        assert torch.equal(torch.cat([part.tokens_BL for part in parts]), whole.tokens_BL)
        assert torch.equal(torch.cat([part.targets_BL for part in parts]), whole.targets_BL)
        assert sum(part.digest for part in parts) % DIGEST_MODULUS == whole.digest
        # As an int64 all-reduce would add them, wrapping around.
        wrapped = int(torch.tensor([part.digest for part in parts]).sum())
        assert wrapped & (DIGEST_MODULUS - 1) == whole.digest

    check()


def test_digests_and_fingerprints_tell_batches_apart(built: Path, stream: TokenStream) -> None:
    epoch = stream.sources[0].order.sequences_per_epoch
    digests = {stream.batch(step, 0, 1).digest for step in range(2 * epoch // 12)}
    assert len(digests) == 2 * epoch // 12
    assert stream.sha256(0, 5) == open_stream(built).sha256(0, 5)
    others = [open_stream(built, seed=4), open_stream(built, sequences=13)]
    assert len({stream.sha256(0, 5), stream.sha256(1, 6), *(other.sha256(0, 5) for other in others)}) == 4


def test_digest_is_what_its_definition_says(stream: TokenStream) -> None:
    part = stream.batch(5, 1, 3)
    expected = 0
    for position, tokens, targets in zip(range(64, 68), part.tokens_BL, part.targets_BL, strict=True):
        stored = np.append(tokens.numpy(), targets[-1]).astype("<u2").tobytes()
        expected += xxhash.xxh3_64_intdigest(position.to_bytes(8, "little") + stored) >> 2
    assert part.digest == expected % 2**62


def test_prefetch_gives_the_same_batches(stream: TokenStream) -> None:
    steps = [4, 5, 6, 40]
    batches = list(stream.batches(iter(steps), 1, 2))
    assert [batch.digest for batch in batches] == [stream.batch(step, 1, 2).digest for step in steps]
    assert not reader_threads()


def test_prefetch_stops_when_closed(stream: TokenStream, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    read = stream.batch
    monkeypatch.setattr(
        stream, "batch", lambda step, rank, world_size: (seen.append(step), read(step, rank, world_size))[1]
    )
    batches = stream.batches(range(10**9), 0, 1)
    next(batches)
    next(batches)
    assert reader_threads()
    batches.close()
    assert not reader_threads()
    assert len(seen) <= 4


def test_prefetch_raises_in_its_turn(
    dataset: Path, stream: TokenStream, flip_bit: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = stream.batch

    def fail_at_two(step: int, rank: int, world_size: int) -> object:
        if step == 2:
            raise DataError.at("shard", found="damage", allowed="none", remedy="Copy.")
        return read(step, rank, world_size)

    monkeypatch.setattr(stream, "batch", fail_at_two)
    batches = stream.batches(range(5), 0, 1)
    assert next(batches).digest == read(0, 0, 1).digest
    assert next(batches).digest == read(1, 0, 1).digest
    with pytest.raises(DataError, match="damage"):
        next(batches)
    assert not reader_threads()

    flip_bit(dataset / "train-000000.tar", 1000)
    with pytest.raises(DataError, match=r"train-000000\.tar, member 00000000\.npy"):
        list(open_stream(dataset).batches(range(100), 0, 1))


def test_heldout_sequences_come_in_storage_order(built: Path) -> None:
    split = load_manifest(built).split("heldout")
    reader = reader_of(built, "heldout")
    tokens = np.concatenate([reader.block(0)[:1], *(reader.block(number)[1:] for number in range(split.num_blocks))])
    config = data_config(built)
    found = read_heldout(config, SEQUENCE_TOKENS, limit=10**6).sequences
    assert found.shape == ((split.num_tokens - 1) // SEQUENCE_TOKENS, SEQUENCE_TOKENS + 1)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found[:, :-1].ravel(), tokens[: found.shape[0] * SEQUENCE_TOKENS])
    np.testing.assert_array_equal(read_heldout(config, SEQUENCE_TOKENS, limit=2).sequences, found[:2])


def test_splits_shorter_than_a_block(corpus: Path, tokenizer_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_dataset([corpus], tokenizer=tokenizer_path, out=out, block_tokens=1 << 17, heldout_fraction=0.1)
    manifest = load_manifest(out)
    assert {split.num_blocks for split in manifest.splits.values()} == {1}
    assert read_heldout(data_config(out), 128, limit=3).sequences.shape == (3, 129)
    stream = open_stream(out, 8, 128)
    assert stream.batch(stream.sources[0].order.sequences_per_epoch, 0, 1).tokens_BL.shape == (8, 128)
    with pytest.raises(DataError, match=r"at least one sequence of 131072 \+ 1 tokens"):
        open_stream(out, 8, 1 << 17)
    with pytest.raises(DataError, match="at least one sequence"):
        read_heldout(data_config(out), 1 << 17, limit=1)


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ({"length": 100}, "a power of two up to 256"),
        ({"length": 512}, "a power of two up to 256"),
        ({"sequences": 0}, "at least one sequence"),
        ({"seed": -1}, "2\\*\\*64"),
    ],
)
def test_settings_that_do_not_fit_are_refused(built: Path, setting: dict[str, int], allowed: str) -> None:
    with pytest.raises(ConfigError, match=allowed):
        open_stream(built, **setting)
