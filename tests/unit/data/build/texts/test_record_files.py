import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sisa_scale.data.build.inputs.find import find_inputs
from sisa_scale.data.build.texts.record_files import _lines, read_documents
from sisa_scale.errors import DataError

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda raw: raw,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_documents([path]))
    return str(caught.value)


@pytest.mark.parametrize("packing", PACKERS)
def test_reads_every_format(tmp_path: Path, packing: str) -> None:
    texts = ["First\r\nline", "Zweites — Dokument 🐳", "third"]
    plain, lines = tmp_path / f"a.txt{packing}", tmp_path / f"b.jsonl{packing}"
    plain.write_bytes(PACKERS[packing](texts[0].encode()))
    records = "\n\n".join(json.dumps({"text": text, "id": 1}) for text in [*texts, ""])
    lines.write_bytes(PACKERS[packing](records.encode()))
    documents = list(read_documents([tmp_path]))
    assert [document.text for document in documents] == [texts[0], *texts]
    assert [(Path(document.source).name, document.index) for document in documents] == [
        (plain.name, 0),
        *((lines.name, index) for index in (0, 2, 4)),  # its line, from 0
    ]


def test_concatenated_zstd_frames_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(PACKERS[".zst"](b"one ") + PACKERS[".zst"](b"two"))
    assert [document.text for document in read_documents([path])] == ["one two"]


def test_directories_are_read_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/b.jsonl", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [file.name for file in find_inputs([tmp_path]).files] == [
        "a/b.jsonl",
        "a/z.txt",
        "b.txt",
    ]


@given(st.lists(st.binary(max_size=5)))
def test_lines_do_not_depend_on_chunks(chunks: list[bytes]) -> None:
    assert list(_lines(chunks)) == b"".join(chunks).split(b"\n")


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("a.txt", b"", "no document"),
        ("a.jsonl", b"\n\n", "no document"),
        ("a.jsonl", b'{"text": ""}\n', "no document"),
        ("a.txt", b"caf\xe9", "0xe9 at byte offset 3"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', "line 2: found the byte 0xe9 at byte offset 13"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "line 3: found a line that is not JSON"),
        ("a.jsonl", b'{"body": "a"}\n', "line 1: found the fields ['body']"),
        ("a.jsonl", b'{"text": 1}\n', "line 1: found int 1 in the field 'text'"),
        ("a.jsonl", b'["text"]\n', "line 1: found a list"),
        ("a.json", b'[{"text": "a"}]\n', "jq -c"),
        ("a.jsonl", b'{"text": "\\ud83d"}\n', "surrogate"),
        ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "a byte order mark of UTF-16"),
        ("a.txt", "a".encode("utf-16"), "iconv -f UTF-16"),
        ("a.txt", "a".encode("utf-32"), "iconv -f UTF-32"),
        ("a.jsonl", '{"text": "a"}\n'.encode("utf-16-be"), "iconv -f UTF-16BE"),
        ("a.txt", "a whale".encode("utf-16-le"), "iconv -f UTF-16LE"),
        ("a.json", b'[\n {\n  "text": "a"\n }\n]\n', "jq -c"),
        ("a.jsonl", gzip.compress(b'{"text": "a"}\n'), "bytes packed as .gz; "),
        ("a.txt.zst", zstandard.compress(gzip.compress(b"text")), "bytes packed as .gz inside"),
        ("a.jsonl", b'{"text": null}\n', "found null in the field 'text'"),
        ("a.csv", b"text", "the suffix '.csv'"),
        ("a.txt.gz", b"not gzip", "damaged or cut off .gz"),
        ("a.txt.gz", gzip.compress(b"some text" * 9, mtime=0)[:-9], "damaged or cut off .gz"),
        ("a.txt.zst", b"not zstd", "damaged or cut off .zst"),
        ("a.txt.zst", zstandard.compress(b"some text" * 9)[:-4], "damaged or cut off .zst"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, raw: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(raw)
    message = refusal(tmp_path / name)
    assert said in message
    assert name in message


def test_missing_and_empty_inputs_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.txt")
    assert "without any text file" in refusal(tmp_path)


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    marked = b'\xef\xbb\xbf{"text": "a"}\r\n'
    for packing, pack in PACKERS.items():
        (tmp_path / f"a.jsonl{packing}").write_bytes(pack(marked + marked))  # two files put together
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfb")
    assert [document.text for document in read_documents([tmp_path])] == ["a"] * 2 * len(PACKERS) + ["b"]
