import json
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from data_sets import stream, texts_of

from sisa_scale.data.build.pipeline import build_dataset, is_heldout
from sisa_scale.data.build.shards.origins import find_origins
from sisa_scale.data.manifest import Manifest
from sisa_scale.data.tokenizer import load_tokenizer
from sisa_scale.errors import ConfigError

build = partial(build_dataset, block_tokens=256, blocks_per_shard=3, heldout_fraction=0)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, texts: list[str]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        return path

    return write


def removed(manifest: Manifest) -> dict[str, int]:
    assert manifest.build is not None
    return dict(manifest.build.num_removed)


def test_documents_that_are_too_short_are_counted_out(
    write: Callable[..., Path], tokenizer_path: Path, tmp_path: Path
) -> None:
    path = write("a.jsonl", ["a", "whale whale", "the sea", "鯨鯨", "a long enough document"])
    manifest = build([path], tokenizer=tokenizer_path, out=tmp_path / "out", min_characters=2, min_tokens=5)
    tokenizer = load_tokenizer(tokenizer_path)
    texts = ["whale whale", "the sea", "鯨鯨", "a long enough document"]
    kept = [text for text in texts if len(tokenizer.encode(text)) >= 5]
    assert 0 < len(kept) < 4
    assert texts_of(tmp_path / "out") == kept
    assert removed(manifest) == {
        "below_min_characters": 1,
        "below_min_tokens": 4 - len(kept),
        "duplicate": 0,
        "bad_record": 0,
    }


@pytest.mark.parametrize("unit_bytes", [1 << 20, 40])
def test_the_first_of_equal_documents_is_kept(
    write: Callable[..., Path], tokenizer_path: Path, tmp_path: Path, unit_bytes: int
) -> None:
    first, second = write("a.jsonl", ["x", "y", "x", "z"]), write("b.jsonl", ["y", "w", "w", "v"])
    settings = {"tokenizer": tokenizer_path, "unit_bytes": unit_bytes}
    manifest = build([first, second], out=tmp_path / "out", deduplicate=True, **settings)
    assert texts_of(tmp_path / "out") == ["x", "y", "z", "w", "v"]
    assert removed(manifest)["duplicate"] == 3
    assert manifest.split("train").num_documents == 5
    sources = json.loads((tmp_path / "out" / "statistics.json").read_text())["sources"]
    assert [source["removed"]["duplicate"] for source in sources] == [1, 2]
    assert [source["num_documents"] for source in sources] == [3, 2]
    build([first, second], out=tmp_path / "all", **settings)
    assert len(texts_of(tmp_path / "all")) == 8


def test_duplicates_are_found_across_the_forms_of_their_characters(
    write: Callable[..., Path], tokenizer_path: Path, tmp_path: Path
) -> None:
    texts = ["e\u0301clair", "éclair", "ﬁne", "fine"]
    path = write("a.jsonl", texts)
    for form, expected in (("none", texts), ("nfc", ["éclair", "ﬁne", "fine"]), ("nfkc", ["éclair", "fine"])):
        out = tmp_path / form
        manifest = build([path], tokenizer=tokenizer_path, out=out, normalization=form, deduplicate=True)
        assert texts_of(out) == expected
        assert manifest.build is not None
        assert manifest.build.unicode_version == unicodedata.unidata_version
        assert manifest.split("train").num_bytes == sum(len(text.encode()) for text in expected)


def test_equal_documents_never_part(corpus: Path, texts: list[str], tokenizer_path: Path, tmp_path: Path) -> None:
    build([corpus, corpus], tokenizer=tokenizer_path, out=tmp_path / "out", heldout_fraction=0.1)
    assert texts_of(tmp_path / "out", "heldout") == [text for text in texts * 2 if is_heldout(text, 0.1, 0)]


@pytest.mark.parametrize("settings", [{}, {"packing": "best_fit", "sequence_tokens": 64}])
@pytest.mark.parametrize("unit_bytes", [1 << 20, 900])
def test_every_token_can_be_traced_to_its_document(
    write: Callable[..., Path], texts: list[str], tokenizer_path: Path, tmp_path: Path, settings, unit_bytes: int
) -> None:
    sources = {"a.jsonl": [*texts[:20], texts[3], *texts[20:30]], "b.jsonl": [texts[5], *texts[40:60]]}
    paths = [write(name, content) for name, content in sources.items()]
    manifest = build(
        paths, tokenizer=tokenizer_path, out=tmp_path / "out", deduplicate=True, unit_bytes=unit_bytes, **settings
    )
    tokenizer = load_tokenizer(tokenizer_path)
    tokens = stream(tmp_path / "out")
    num_traced = 0
    for block in range(manifest.split("train").num_blocks):
        for first in range(0, 256, 64):
            begin = block * 256 + first
            stretch = tokens[begin : begin + 64]
            if stretch.size < 64:
                continue
            origins = find_origins(tmp_path / "out", manifest, "train", block, first, 64)
            assert origins[0].first_token == 0
            for origin, after in zip(origins, [*origins[1:], None], strict=True):
                piece = stretch[origin.first_token : after.first_token if after else None]
                ids = [*tokenizer.encode(sources[origin.source][origin.index]), tokenizer.eos_id]
                padded = np.array(ids + [tokenizer.eos_id] * 64)
                starts = [0] if origin.first_token else range(len(ids))
                assert any((padded[start : start + piece.size] == piece).all() for start in starts)
                num_traced += 1
    assert num_traced > 60


def test_best_fit_cuts_no_document_shorter_than_a_sequence(
    texts: list[str], corpus: Path, tokenizer_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    manifest = build([corpus], tokenizer=tokenizer_path, out=out, packing="best_fit", sequence_tokens=256)
    tokenizer = load_tokenizer(tokenizer_path)
    tokens = stream(out)
    assert tokens.size % 256 == 1
    assert manifest.packing is not None
    assert manifest.packing.sequence_tokens == 256
    lengths = [len(tokenizer.encode(text)) + 1 for text in texts]
    assert tokens.size - manifest.packing.num_padding_tokens == sum(lengths)
    rows = [row.tobytes() for row in tokens[:-1].reshape(-1, 256)]
    for text, length in zip(texts, lengths, strict=True):
        ids = np.array([*tokenizer.encode(text), tokenizer.eos_id], dtype=manifest.dtype).tobytes()
        assert length > 256 or any(ids in row for row in rows)
    plain = build([corpus], tokenizer=tokenizer_path, out=tmp_path / "plain")
    assert plain.fingerprint != manifest.fingerprint
    assert plain.split("train").unigram_entropy_nats == manifest.split("train").unigram_entropy_nats


def test_cutting_into_units_leaves_no_trace_in_best_fit(corpus: Path, tokenizer_path: Path, tmp_path: Path) -> None:
    for number, unit_bytes in enumerate((1 << 20, 3000)):
        out = tmp_path / str(number)
        build(
            [corpus], tokenizer=tokenizer_path, out=out, packing="best_fit", sequence_tokens=128, unit_bytes=unit_bytes
        )
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "01")
    assert first == second


@pytest.mark.parametrize(
    "setting",
    [
        {"packing": "first_fit"},
        {"packing": "best_fit"},
        {"packing": "best_fit", "sequence_tokens": 100},
        {"packing": "best_fit", "sequence_tokens": 512},
        {"sequence_tokens": 64},
        {"normalization": "nfd"},
        {"min_characters": 0},
        {"min_tokens": 0},
        {"unit_bytes": 0},
    ],
)
def test_settings_out_of_range_are_refused(corpus: Path, tokenizer_path: Path, tmp_path: Path, setting) -> None:
    name = list(setting)[-1] if setting != {"packing": "best_fit"} else "sequence_tokens"
    with pytest.raises(ConfigError, match=name):
        build([corpus], tokenizer=tokenizer_path, out=tmp_path / "out", **setting)
