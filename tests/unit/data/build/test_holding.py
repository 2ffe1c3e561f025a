"""A build holds text out whatever its documents are: by hash where that works, else by other rules that say so."""

import json
from functools import partial
from pathlib import Path

import pytest
from data_sets import texts_of

from sisa_scale.data.build.pipeline import build_dataset, is_heldout
from sisa_scale.data.build.shards.staging import staging_path
from sisa_scale.data.manifest import load_manifest
from sisa_scale.errors import DataError
from sisa_scale.reporting.data_card import write_card

build = partial(build_dataset, block_tokens=1 << 12)


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def rule(directory: Path) -> str:
    info = load_manifest(directory).build
    assert info is not None
    return info.heldout_rule


@pytest.mark.parametrize("unit_bytes", [1 << 20, 20_000])
def test_a_single_text_file_is_enough(texts: list[str], tokenizer_path: Path, tmp_path: Path, unit_bytes: int) -> None:
    book = "\n".join(texts)
    (tmp_path / "book.txt").write_text(book)
    said: list[str] = []
    out = tmp_path / "out"
    build([tmp_path / "book.txt"], tokenizer=tokenizer_path, out=out, unit_bytes=unit_bytes, announce=said.append)
    train, heldout = texts_of(out), texts_of(out, "heldout")
    assert sum(map(len, train)) + sum(map(len, heldout)) == len(book)
    assert 0.005 < sum(map(len, heldout)) / len(book) < 0.03
    assert all(text in book for text in [*train, *heldout])
    assert rule(out) == "stretches"
    assert any("stretches" in text for text in said)
    if unit_bytes > len(book):
        assert "in stretches spread over it" in write_card(out).read_text()


def test_stretches_of_records_and_of_several_texts(texts: list[str], tokenizer_path: Path, tmp_path: Path) -> None:
    documents = ["\n".join(texts[start : start + 30]) for start in (0, 30, 60)]
    build(
        [write(tmp_path / "a.jsonl", documents)], tokenizer=tokenizer_path, out=tmp_path / "out", heldout_fraction=0.02
    )
    assert rule(tmp_path / "out") == "stretches"
    assert "".join(sorted(texts_of(tmp_path / "out", "heldout"), key=documents[0].find)) != ""
    assert len(texts_of(tmp_path / "out", "heldout")) == 3
    assert len(texts_of(tmp_path / "out")) == 6


def test_few_documents_give_those_of_the_lowest_hash(texts: list[str], tokenizer_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build([write(tmp_path / "a.jsonl", texts[:20])], tokenizer=tokenizer_path, out=out, heldout_fraction=0.001)
    assert rule(out) == "lowest"
    fraction = load_manifest(out).heldout_fraction
    assert texts_of(out, "heldout") == [text for text in texts[:20] if is_heldout(text, fraction, 0)]
    assert len(texts_of(out, "heldout")) == 1


def test_where_the_share_holds_some_out_nothing_else_happens(built: Path) -> None:
    assert rule(built) == "hash"
    assert load_manifest(built).heldout_fraction == 0.1


def test_equal_documents_cannot_be_parted(tokenizer_path: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["the same whale"] * 50)
    with pytest.raises(DataError, match=r"held-out split: found 0 of 50 documents.*--heldout-fraction 0"):
        build([path], tokenizer=tokenizer_path, out=tmp_path / "out")
    build([path], tokenizer=tokenizer_path, out=tmp_path / "out", heldout_fraction=0)  # the remedy


def test_a_refused_build_never_refuses_the_corrected_one(
    tokenizer_path: Path, tmp_path: Path, texts: list[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    out = tmp_path / "out"
    run = partial(build, [path], tokenizer=tokenizer_path, out=out, resumable=True)
    with pytest.raises(DataError, match="--text-field"):
        run()
    assert not staging_path(out).exists()
    with pytest.raises(DataError, match="training split: found 0 documents"):
        run(text_field="body", min_tokens=5000)
    run(text_field="body")
    assert not staging_path(out).exists()
