import gzip
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from data_sets import reader_of

from sisa_scale.data.build import engines
from sisa_scale.data.build.pipeline import BuildProgress, build_dataset, is_heldout
from sisa_scale.data.manifest import load_manifest
from sisa_scale.data.tokenizer import END_OF_TEXT, load_tokenizer
from sisa_scale.errors import ConfigError, DataError

build = partial(build_dataset, block_tokens=256, blocks_per_shard=7, heldout_fraction=0.1)


def stored_tokens(directory: Path, split: str) -> list[int]:
    reader = reader_of(directory, split)
    blocks = [reader.block(number) for number in range(reader.num_blocks)]
    return np.concatenate([blocks[0][:1], *(block[1:] for block in blocks)]).tolist()


def stored_texts(directory: Path, split: str) -> list[str]:
    tokenizer = load_tokenizer(directory / "tokenizer.json")
    documents: list[list[int]] = [[]]
    for token in stored_tokens(directory, split):
        if token == tokenizer.eos_id:
            documents.append([])
        else:
            documents[-1].append(token)
    assert documents.pop() == []
    return [tokenizer.decode(ids) for ids in documents]


def test_text_comes_back_from_the_shards(built: Path, texts: list[str]) -> None:
    heldout = [text for text in texts if is_heldout(text, 0.1, 0)]
    assert 3 < len(heldout) < 40
    assert stored_texts(built, "heldout") == heldout
    assert stored_texts(built, "train") == [text for text in texts if text not in heldout]


def test_counts(built: Path, texts: list[str]) -> None:
    manifest = load_manifest(built)
    assert sum(split.num_documents for split in manifest.splits.values()) == len(texts)
    assert sum(split.num_bytes for split in manifest.splits.values()) == sum(len(text.encode()) for text in texts)
    for name, split in manifest.splits.items():
        tokens = stored_tokens(built, name)
        shares = np.bincount(tokens)[np.unique(tokens)] / len(tokens)
        assert split.num_tokens == len(tokens)
        assert split.unigram_entropy_nats == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-6)
        assert sum(shard.num_tokens for shard in split.shards) == len(tokens) + split.num_blocks - 1


def test_builds_are_byte_equal_wherever_the_text_lies(
    built: Path, corpus: Path, tokenizer_path: Path, tmp_path: Path
) -> None:
    build([corpus], tokenizer=tokenizer_path, out=tmp_path / "again")
    names = sorted(path.name for path in built.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    assert all((built / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(corpus.read_bytes()))
    other = build([packed], tokenizer=tokenizer_path, out=tmp_path / "other")
    assert other.fingerprint == load_manifest(built).fingerprint


def test_end_of_document_in_a_text_stays_text(tokenizer_path: Path, tmp_path: Path) -> None:
    text = f"before{END_OF_TEXT}after"
    (tmp_path / "a.txt").write_text(text)
    out = tmp_path / "out"
    manifest = build([tmp_path / "a.txt"], tokenizer=tokenizer_path, out=out, heldout_fraction=0)
    assert stored_texts(out, "train") == [text]
    assert list(manifest.splits) == ["train"]
    assert manifest.split("train").num_blocks == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_holding_out_depends_on_text_and_seed_alone(texts: list[str], seed: int) -> None:
    chosen = {text for text in texts if is_heldout(text, 0.1, seed)}
    assert chosen <= {text for text in texts if is_heldout(text, 0.2, seed)}
    assert chosen != {text for text in texts if is_heldout(text, 0.1, seed + 1)}
    assert not any(is_heldout(text, 0.0, seed) for text in texts)


def test_progress_counts_up(corpus: Path, tokenizer_path: Path, tmp_path: Path, texts: list[str]) -> None:
    seen: list[BuildProgress] = []
    manifest = build([corpus, corpus], tokenizer=tokenizer_path, out=tmp_path / "out", progress=seen.append)
    assert seen[-1].num_documents == 2 * len(texts)
    assert seen[-1].num_tokens == sum(split.num_tokens for split in manifest.splits.values())
    assert seen[-1].source == str(corpus)


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError, MemoryError])
def test_interrupted_builds_leave_nothing(
    corpus: Path, tokenizer_path: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    def interrupt(_: BuildProgress) -> None:
        assert any(tmp_path.iterdir())
        raise error

    with pytest.raises(error):
        build([corpus], tokenizer=tokenizer_path, out=tmp_path / "deep" / "out", progress=interrupt)
    assert list((tmp_path / "deep").iterdir()) == []


def test_bad_input_leaves_nothing(corpus: Path, tokenizer_path: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(corpus.read_text(encoding="utf-8") + "{}\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 151"):
        build([bad], tokenizer=tokenizer_path, out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def test_an_existing_directory_is_never_touched(corpus: Path, tokenizer_path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"rm -r {tmp_path}"):
        build([corpus], tokenizer=tokenizer_path, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_empty_splits_are_refused(tokenizer_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one document")
    with pytest.raises(DataError, match=r"held-out split: found 0 of 1 documents"):
        build([path], tokenizer=tokenizer_path, out=tmp_path / "out")
    with pytest.raises(DataError, match="training split: found 0 documents"):
        build([path], tokenizer=tokenizer_path, out=tmp_path / "out", heldout_fraction=1 - 1e-12)


def test_enough_documents_are_held_out_or_none(corpus: Path, tokenizer_path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 100"):
        build([corpus], tokenizer=tokenizer_path, out=tmp_path / "out", min_heldout_documents=100)


@pytest.mark.parametrize(
    "setting",
    [
        {"block_tokens": 128},
        {"block_tokens": 1000},
        {"block_tokens": 1 << 25},
        {"block_tokens": 0},
        {"blocks_per_shard": 0},
        {"heldout_fraction": 1.0},
        {"heldout_fraction": float("nan")},
        {"seed": -1},
    ],
)
def test_settings_out_of_range_are_refused(
    corpus: Path, tokenizer_path: Path, tmp_path: Path, setting: dict[str, int]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        build([corpus], tokenizer=tokenizer_path, out=tmp_path / "out", **setting)


def test_a_document_cannot_end_early(
    corpus: Path, tokenizer_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = {True: [5, 0, 5], False: [5]}
    monkeypatch.setattr(engines, "encode_batch", lambda _, texts: [ids[len(text) > 50] for text in texts])
    with pytest.raises(
        DataError, match=r"corpus\.jsonl, document 0: found text that encodes to the end-of-document id 0"
    ):
        build([corpus], tokenizer=tokenizer_path, out=tmp_path / "out")
