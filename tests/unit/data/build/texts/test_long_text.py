"""Long texts and packed files are cut into units that leave no trace, and read in little memory."""

import gzip
import lzma
import random
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zstandard
from data_sets import CountingRunner, contents
from hypothesis import given, settings
from hypothesis import strategies as st

from sisa_scale.data.build.inputs.find import find_inputs
from sisa_scale.data.build.inputs.input_file import Input, unpack
from sisa_scale.data.build.pipeline import BuildProgress, build_dataset
from sisa_scale.data.build.texts import long_text
from sisa_scale.data.build.texts.cleaning import Cleaning, content_hash, heldout_number
from sisa_scale.data.build.texts.cuts import Cutting, find_cut, split_text
from sisa_scale.data.build.texts.long_text import digest_text, read_pieces
from sisa_scale.data.build.texts.record_files import Part, read_texts
from sisa_scale.data.tokenizer import load_tokenizer
from sisa_scale.errors import DataError

PACKERS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress, ".xz": lzma.compress}
PLAIN = Cleaning("text", "nfc", 1, 1, deduplicate=True)


@pytest.fixture(scope="module")
def book(texts: list[str]) -> str:
    """A long text: lines, empty lines, long ones, and characters of several bytes."""
    generator = random.Random(1)
    words = " ".join(texts).split()
    lines = [" ".join(generator.choices(words, k=generator.randint(0, 30))) for _ in range(600)]
    return "\n".join(lines) + "\n"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_text, "PIECE_BYTES", 3000)
    monkeypatch.setattr(long_text, "WINDOW_BYTES", 2000)


build = partial(build_dataset, block_tokens=1 << 12, deduplicate=True, heldout_fraction=0)


@pytest.mark.parametrize(
    ("packing", "more"),
    [
        ("", {}),
        (".gz", {"heldout_fraction": 0.5, "seed": 3}),
        (".xz", {"packing": "best_fit", "sequence_tokens": 64}),
    ],
)
def test_a_long_text_is_one_document_whatever_its_units(
    book: str, texts: list[str], tokenizer_path: Path, tmp_path: Path, packing: str, more: dict[str, Any]
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / f"a.txt{packing}").write_bytes(PACKERS[packing](book.encode()))
    for number, text in enumerate(texts[:30]):
        (folder / f"b{number}.txt").write_text(text)
    (folder / "z.txt").write_text(book)  # a duplicate
    runners = [CountingRunner(), CountingRunner()]
    for runner, unit_bytes in zip(runners, (1 << 20, 15_000), strict=True):
        settings = {"tokenizer": tokenizer_path, "unit_bytes": unit_bytes, "run_units": runner}
        build([folder], out=tmp_path / str(unit_bytes), **(settings | more))
    assert runners[0].num_units == 1
    assert runners[1].num_units > 2 * len(book.encode()) // 18000
    assert contents(tmp_path / str(1 << 20)) == contents(tmp_path / "15000")


@pytest.mark.parametrize("name", ["a.txt", "a.txt.zst", "a.jsonl.gz"])
def test_a_build_goes_on_inside_one_file(
    book: str, corpus: Path, tokenizer_path: Path, tmp_path: Path, name: str
) -> None:
    raw = corpus.read_bytes() if "jsonl" in name else book.encode()
    path = tmp_path / name
    path.write_bytes(PACKERS[Path(name).suffix if name.count(".") > 1 else ""](raw))

    def interrupt(progress: BuildProgress) -> None:
        if progress.stage == "tokenize" and progress.num_done > progress.num_total / 2:
            raise KeyboardInterrupt

    run = partial(build, [path], tokenizer=tokenizer_path, unit_bytes=15_000, resumable=True)
    whole, first, second = CountingRunner(), CountingRunner(), CountingRunner()
    run(out=tmp_path / "whole", run_units=whole)
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "out", run_units=first, progress=interrupt)
    run(out=tmp_path / "out", run_units=second)
    assert 0 < second.num_units < whole.num_units - 1
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_digest_is_that_of_the_text(book: str, tmp_path: Path) -> None:
    text = "e\u0301clair\n" + book
    (tmp_path / "a.txt").write_text(text)
    digest = digest_text(find_inputs([tmp_path]).files[0], PLAIN, 5, 10_000, lambda: lambda left, right: True)
    normal = PLAIN.normalize(text).encode()
    assert digest.heldout == heldout_number(normal, 5)
    assert digest.content == content_hash(normal).hex()
    assert (digest.num_bytes, digest.num_characters) == (len(text.encode()), len(normal.decode()))
    assert len(digest.cuts) == 5


def test_bytes_that_are_no_text_are_found_where_they_are(book: str, tmp_path: Path) -> None:
    raw = book.encode()
    (tmp_path / "a.txt").write_bytes(raw[:30000].rstrip(b"\x80\xbf") + b"\xe9 " + raw[30001:])
    (tmp_path / "b.txt").write_bytes(raw[:100] + "é".encode()[:1])
    for name, where in (("a.txt", "offset 30000"), ("b.txt", "offset 100")):
        with pytest.raises(DataError, match=where):
            digest_text(find_inputs([tmp_path / name]).files[0], PLAIN, 0, 1 << 20, lambda: lambda left, right: True)


def test_pieces_and_stretches_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    @given(st.text(st.characters(exclude_categories=("Cs",)), max_size=400), st.integers(1, 300), st.booleans())
    @settings(max_examples=60, deadline=None)
    def check(text: str, unit_bytes: int, is_exact: bool) -> None:
        raw = text.encode()
        path.write_bytes(raw)
        file = Input(str(path), len(raw), str(hash(text)))
        cuts = digest_text(file, PLAIN, 0, unit_bytes, lambda: lambda left, right: is_exact).cuts
        assert list(cuts) == sorted(set(cuts))
        stops = [*cuts[1:], len(raw)]
        pieces = [
            read_pieces(file, start, stop, lambda left, right: is_exact)
            for start, stop in zip(cuts, stops, strict=True)
        ]
        assert "".join(piece for each in pieces for piece in each) == text
        stretches = Cutting(0.1, 4, 16).cut(text * 3)
        assert "".join(stretch for stretch, _ in stretches) == text * 3

    check()


def test_cuts_lie_where_the_tokenizer_cuts(book: str, tokenizer_path: Path) -> None:
    encode = load_tokenizer(tokenizer_path).encode
    pieces = split_text(book, 5000, lambda left, right: encode(left + right) == encode(left) + encode(right))
    assert len(pieces) > 5
    assert [token for piece in pieces for token in encode(piece)] == encode(book)
    # Between words where there are no lines, and nowhere if no place is good.
    assert find_cut(b"some words", lambda left, right: left == "some") == 4
    assert split_text("a" * 20000, 5000, lambda left, right: False) == ["a" * 20000]


def test_packed_files_are_unpacked_once(corpus: Path, texts: list[str], tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(corpus.read_bytes()))
    (file,) = find_inputs([path]).files
    num_opened = 0
    original = Input.chunks

    def count(self: Input, start: int = 0):
        nonlocal num_opened
        num_opened += 1
        return original(self, start)

    monkeypatch.setattr(Input, "chunks", count)
    bounds = [*range(0, corpus.stat().st_size, 4000), None]
    parts = [Part(file, start or 0, stop) for start, stop in pairwise(bounds)]
    assert [text for part in parts for text in read_texts(part, "text")] == texts
    assert num_opened == 1
    assert list(read_texts(parts[2], "text")) == list(read_texts(parts[2], "text"))  # going back begins anew


def test_long_windows_are_read(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "a.txt.zst").write_bytes(packer.compress(b"a whale") + packer.flush())
    assert zstandard.get_frame_parameters((tmp_path / "a.txt.zst").read_bytes()).window_size > 1 << 27
    (file,) = find_inputs([tmp_path]).files
    assert b"".join(unpack.unpacked_chunks(file)) == b"a whale"
