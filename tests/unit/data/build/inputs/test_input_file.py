"""Every format, packing and place gives the data set of the same documents."""

import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from data_sets import send, serve

from sisa_scale.data.build.inputs.find import find_inputs
from sisa_scale.data.build.inputs.input_file import Input
from sisa_scale.data.build.pipeline import build_dataset
from sisa_scale.data.build.texts.record_files import Part, read_documents, read_texts
from sisa_scale.data.build.units import plan_units
from sisa_scale.data.manifest import load_manifest
from sisa_scale.errors import DataError

build = partial(build_dataset, block_tokens=256, blocks_per_shard=7, heldout_fraction=0.1)


@pytest.fixture(scope="module")
def folder(texts: list[str], corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus in every format."""
    directory = tmp_path_factory.mktemp("formats")
    raw = corpus.read_bytes()
    (directory / "plain.jsonl").write_bytes(raw)
    (directory / "packed.jsonl.gz").write_bytes(gzip.compress(raw[:5000]) + gzip.compress(raw[5000:]))
    (directory / "packed.jsonl.zst").write_bytes(zstandard.compress(raw[:5000]) + zstandard.compress(raw[5000:]))
    table = pyarrow.table({"id": list(range(len(texts))), "text": texts})
    pyarrow.parquet.write_table(table, directory / "table.parquet", row_group_size=40)
    return directory


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def shards(directory: Path) -> list[tuple[str, str]]:
    return [(shard.name, shard.sha256) for split in load_manifest(directory).splits.values() for shard in split.shards]


@pytest.mark.parametrize("name", ["plain.jsonl", "packed.jsonl.gz", "packed.jsonl.zst", "table.parquet"])
@pytest.mark.parametrize("unit_bytes", [1 << 20, 3000])
def test_every_format_cut_or_whole(
    folder: Path, built: Path, tokenizer_path: Path, tmp_path: Path, name: str, unit_bytes: int
) -> None:
    manifest = build([folder / name], tokenizer=tokenizer_path, out=tmp_path / "out", unit_bytes=unit_bytes)
    assert manifest.fingerprint == load_manifest(built).fingerprint
    assert shards(tmp_path / "out") == shards(built)
    stored = (folder / name).read_bytes()
    assert manifest.sources[0].num_bytes == len(stored)
    assert manifest.sources[0].sha256 == __import__("hashlib").sha256(stored).hexdigest()


@pytest.mark.parametrize("unit_bytes", [1, 7, 100, 999, 5000])
def test_parts_of_a_file_hold_each_line_once(corpus: Path, texts: list[str], unit_bytes: int) -> None:
    units = plan_units(find_inputs([corpus]).files, unit_bytes)
    assert len(units) > 1
    if unit_bytes >= 100:
        assert [text for unit in units for part in unit.parts for text in read_texts(part, "text")] == texts


def test_small_files_share_a_unit(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02d}.txt").write_text("x" * 10)
    units = plan_units(find_inputs([tmp_path]).files, 100)
    assert [len(unit.parts) for unit in units] == [10, 10, 10]
    assert [source for unit in units for source in unit.sources] == list(range(30))


def test_line_numbers_in_later_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"document {number}"}) for number in range(50)]
    lines[30] = "{broken"
    path.write_text("\n".join(lines) + "\n")
    starts = [sum(len(line) + 1 for line in lines[:n]) for n in range(len(lines))]
    (file,) = find_inputs([path]).files
    for start in (0, 1, starts[7], starts[7] + 1, starts[30] - 1, starts[30]):
        with pytest.raises(DataError, match=r"a\.jsonl, line 31: "):
            list(read_texts(Part(file, start), "text"))


@pytest.mark.parametrize("name", ["plain.jsonl", "packed.jsonl.zst", "table.parquet"])
def test_files_come_over_http(
    server: str, folder: Path, built: Path, tokenizer_path: Path, tmp_path: Path, name: str
) -> None:
    manifest = build([f"{server}/{name}?token=x"], tokenizer=tokenizer_path, out=tmp_path / "out")
    assert shards(tmp_path / "out") == shards(built)
    assert manifest.sources[0].name == name
    assert manifest.sources[0].num_bytes == (folder / name).stat().st_size


def test_missing_urls_and_unknown_protocols_are_refused(server: str) -> None:
    for url, said in (
        (f"{server}/absent.jsonl", "no such file"),
        (f"{server}/plain.csv", "no such file|suffix"),
        ("http://127.0.0.1:1/a.jsonl", "no such file|does not answer"),
        ("nowhere://bucket/a.jsonl", "protocol that cannot be used"),
    ):
        with pytest.raises(DataError, match=said):
            find_inputs([url])


def test_directories_and_patterns_of_object_stores(s3: str, folder: Path, built: Path, texts: list[str]) -> None:
    files = fsspec.filesystem("s3")
    for name in ("b/plain.jsonl", "a/packed.jsonl.gz", "a/notes.md"):
        source = folder / name[2:]
        files.pipe(f"{s3}/inputs/{name}", source.read_bytes() if source.exists() else b"")
    assert [file.name for file in find_inputs([f"{s3}/inputs"]).files] == ["a/packed.jsonl.gz", "b/plain.jsonl"]
    found = [document.text for document in read_documents([f"{s3}/inputs/*/*.jsonl*"])]
    assert found == texts * 2
    with pytest.raises(DataError, match="without any text file"):
        find_inputs([f"{s3}/inputs/*.jsonl"])


class Flaky:
    """A file system whose reads fail now and then, as connections do."""

    def __init__(self, raw: bytes, every: int) -> None:
        self.raw, self.every, self.num_reads = raw, every, 0

    def open(self, _path: str, _mode: str, **_: object) -> "Flaky":
        self.position = 0
        return self

    def __enter__(self) -> "Flaky":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def seek(self, position: int) -> None:
        self.position = position

    def read(self, num_bytes: int) -> bytes:
        self.num_reads += 1
        if self.num_reads % self.every == 0:
            raise ConnectionResetError("peer went away")
        chunk = self.raw[self.position : self.position + min(num_bytes, 1000)]
        self.position += len(chunk)
        return chunk


def test_broken_connections_are_taken_up_where_they_broke(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = corpus.read_bytes()
    monkeypatch.setattr("sisa_scale.data.build.inputs.input_file.RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setattr("sisa_scale.data.build.inputs.input_file.open_file_system", lambda url: (Flaky(raw, 3), url))
    assert b"".join(Input("far://a.jsonl", len(raw), "").chunks()) == raw
    assert b"".join(Input("far://a.jsonl", len(raw), "").chunks(5000)) == raw[5000:]
    monkeypatch.setattr("sisa_scale.data.build.inputs.input_file.open_file_system", lambda url: (Flaky(raw, 1), url))
    with pytest.raises(DataError, match=r"a failed read at byte 0, 3 times \(peer went away\)"):
        list(Input("far://a.jsonl", len(raw), "").chunks())


def test_a_file_that_ends_early_is_refused(corpus: Path) -> None:
    with pytest.raises(DataError, match="an end after"):
        list(Input(str(corpus), corpus.stat().st_size + 1, "").chunks())


def test_bad_parquet_is_refused(tmp_path: Path) -> None:
    def refusal(name: str, table: pyarrow.Table | None, **options: str) -> str:
        path = tmp_path / name
        if table is not None:
            pyarrow.parquet.write_table(table, path)
        with pytest.raises(DataError) as caught:
            list(read_documents([path], **options))
        return str(caught.value)

    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    assert "broken.parquet: found a file that cannot be read as parquet" in refusal("broken.parquet", None)
    assert "the columns body; a column 'text'" in refusal("other.parquet", pyarrow.table({"body": ["a"]}))
    assert "of type int64" in refusal("numbers.parquet", pyarrow.table({"text": [1]}))
    assert "nulls.parquet, row 2: found no value" in refusal("nulls.parquet", pyarrow.table({"text": ["a", None]}))
    assert "no document" in refusal("empty.parquet", pyarrow.table({"text": pyarrow.array([], pyarrow.string())}))


def test_the_field_can_be_named(tmp_path: Path, tokenizer_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "one"}\n{"body": "two"}\n')
    assert [document.text for document in read_documents([tmp_path], "body")] == ["one", "two"]
    build([tmp_path], tokenizer=tokenizer_path, out=tmp_path / "out", text_field="body", heldout_fraction=0)
    with pytest.raises(DataError, match=r"line 1: found the fields \['body'\].*--text-field"):
        build([tmp_path / "a.jsonl"], tokenizer=tokenizer_path, out=tmp_path / "other")


def test_a_file_without_documents_is_refused(tmp_path: Path, corpus: Path, tokenizer_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"a\.jsonl: found no document"):
        build([corpus, tmp_path / "a.jsonl"], tokenizer=tokenizer_path, out=tmp_path / "out")


STRINGS = ["one", "zwei — 鯨", "three"]


@pytest.mark.parametrize(
    ("array", "field"),
    [
        (pyarrow.array(STRINGS).dictionary_encode(), "text"),
        (pyarrow.array(STRINGS, pyarrow.string_view()), "text"),
        (pyarrow.array([text.encode() for text in STRINGS], pyarrow.binary()), "text"),
        (pyarrow.array(STRINGS, pyarrow.large_string()), "text"),
        (pyarrow.array([{"text": text, "id": 1} for text in STRINGS]), "meta.text"),
        (pyarrow.array([{"deep": {"text": text}} for text in STRINGS]), "meta.deep.text"),
    ],
    ids=str,
)
def test_every_kind_of_string_in_parquet(tmp_path: Path, array: pyarrow.Array, field: str) -> None:
    table = pyarrow.table({field.partition(".")[0]: array, "other": [1, 2, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert [document.text for document in read_documents([tmp_path], field)] == STRINGS


def test_fields_inside_fields_of_json(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"meta": {"text": "one"}}\n{"meta.text": "two", "meta": {}}\n')
    assert [document.text for document in read_documents([tmp_path], "meta.text")] == ["one", "two"]


def test_servers_that_refuse_access_say_so_without_the_signature(tmp_path: Path) -> None:
    for status in (401, 403):
        with serve(tmp_path) as server:
            server.misbehave = lambda handler, status=status: send(handler, status, b"") is None  # type: ignore[misc]
            with pytest.raises(DataError) as caught:
                find_inputs([f"{server.url}/a.jsonl?X-Amz-Signature=secret"])
        assert f"found a server that refuses access ({status})" in str(caught.value)
        assert "secret" not in str(caught.value)
