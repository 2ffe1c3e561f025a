"""Files on web servers: packed answers are unpacked, and no short or foreign answer passes for a file."""

import gzip
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest
import zstandard
from data_sets import CountingRunner, Server, contents, serve

from sisa_scale.data.build.inputs.find import find_inputs
from sisa_scale.data.build.inputs.input_file import input_file as inputs
from sisa_scale.data.build.inputs.input_file import web
from sisa_scale.data.build.pipeline import build_dataset
from sisa_scale.data.build.texts import long_text
from sisa_scale.data.build.texts.record_files import read_documents
from sisa_scale.errors import DataError


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (inputs, web):
        monkeypatch.setattr(module, "RETRY_SECONDS", (0.0, 0.0))


def answer(
    server: Server, body: bytes, *, status: int = 200, keep: Callable[[int], int] = lambda number: 1 << 30, **more: str
) -> None:
    """Let a server answer every request with a body, of the request of each number so many bytes alone."""
    num_requests = 0

    def misbehave(handler: SimpleHTTPRequestHandler) -> bool:
        nonlocal num_requests
        num_requests += 1
        start = int((handler.headers.get("Range") or "bytes=0-")[6:].split("-")[0]) if status == 206 else 0
        handler.send_response(206 if start else 200)
        headers = {"Content-Length": str(len(body) - start)} | {name.replace("_", "-"): more[name] for name in more}
        for name, value in headers.items():
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body[start : start + keep(num_requests)])
        handler.close_connection = True
        return True

    server.misbehave = misbehave


@pytest.mark.parametrize(
    ("name", "pack", "encoding"),
    [
        ("a.jsonl", gzip.compress, "gzip"),
        ("a.jsonl.gz", gzip.compress, "x-gzip"),
        ("a.jsonl", zstandard.compress, "zstd"),
        ("a.jsonl", bytes, "identity"),
    ],
)
def test_packed_answers_are_unpacked_once(
    corpus: Path, texts: list[str], tmp_path: Path, name: str, pack: Callable[[bytes], bytes], encoding: str
) -> None:
    with serve(tmp_path) as server:
        answer(server, pack(corpus.read_bytes()), Content_Encoding=encoding)
        assert [document.text for document in read_documents([f"{server.url}/{name}"])] == texts


@pytest.mark.parametrize(
    ("name", "headers", "said"),
    [
        ("a.jsonl", {"Content_Encoding": "br"}, "packed as br"),
        ("a.parquet", {"Content_Encoding": "gzip"}, "packed as gzip"),
        ("a.jsonl", {"Content_Length": ""}, "without Content-Length"),
    ],
)
def test_answers_that_cannot_be_read_whole_are_refused(
    tmp_path: Path, name: str, headers: dict[str, str], said: str
) -> None:
    with serve(tmp_path) as server:
        answer(server, b'{"text": "whale"}\n', **headers)
        with pytest.raises(DataError, match=rf"{said}.*Download the file"):
            find_inputs([f"{server.url}/{name}"])


@pytest.mark.parametrize("status", [206, 200], ids=["ranges", "no-ranges"])
def test_half_an_answer_is_asked_for_again(corpus: Path, texts: list[str], tmp_path: Path, status: int) -> None:
    raw = corpus.read_bytes()
    with serve(tmp_path) as server:
        answer(server, raw, status=status, keep=lambda number: len(raw) // 2 if number in (2, 3) else len(raw))
        assert [document.text for document in read_documents([f"{server.url}/a.jsonl"])] == texts
        answer(server, raw, status=status, keep=lambda number: 0 if number > 2 else len(raw) // 2)
        with pytest.raises(DataError, match=r"a failed read at byte \d+, 3 times"):
            list(read_documents([f"{server.url}/a.jsonl"]))


def test_another_file_than_the_one_that_was_found_is_refused(corpus: Path, tmp_path: Path) -> None:
    raw = corpus.read_bytes()
    with serve(tmp_path) as server:
        for later, tag in ((raw[:5000], "1"), (raw + raw, "1"), (raw, "2")):
            answer(server, raw, ETag="1")
            (file,) = find_inputs([f"{server.url}/a.jsonl"]).files
            answer(server, later, ETag=tag)
            with pytest.raises(DataError, match=r"another file by now.*Run the command again"):
                list(file.chunks())


def test_a_busy_server_is_asked_again(corpus: Path, texts: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(corpus.read_bytes())
    with serve(tmp_path, has_ranges=False) as server:
        faults = [503, 429]

        def misbehave(handler: SimpleHTTPRequestHandler) -> bool:
            if faults:
                handler.send_error(faults.pop())
                return True
            return False

        server.misbehave = misbehave
        assert [document.text for document in read_documents([f"{server.url}/a.jsonl"])] == texts


@pytest.mark.parametrize(("name", "num_units"), [("a.txt.gz", 4), ("a.txt", 4), ("a.jsonl.gz", 1)])
def test_a_long_text_on_a_server_is_cut_as_here(
    corpus: Path, texts: list[str], tokenizer_path: Path, tmp_path: Path, monkeypatch, name: str, num_units: int
) -> None:
    monkeypatch.setattr(long_text, "PIECE_BYTES", 3000)
    monkeypatch.setattr(long_text, "WINDOW_BYTES", 2000)
    raw = corpus.read_bytes() if "jsonl" in name else "\n".join(texts).encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    build = partial(build_dataset, tokenizer=tokenizer_path, block_tokens=1 << 12, unit_bytes=15_000)
    runner = CountingRunner()
    build([tmp_path / name], out=tmp_path / "here", engine="tokenizers")
    with serve(tmp_path, has_ranges=False) as server:
        build([f"{server.url}/{name}"], out=tmp_path / "far", engine="tokenizers", run_units=runner)
    here, far = contents(tmp_path / "here"), contents(tmp_path / "far")
    assert here.keys() == far.keys()
    assert all(here[file] == far[file] for file in here if file.endswith(".tar"))
    assert runner.num_units >= num_units
