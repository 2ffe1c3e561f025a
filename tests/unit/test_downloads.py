import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from web_server import WebServer, web_server

from sisa_scale import downloads
from sisa_scale.downloads import download
from sisa_scale.errors import DataError

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(downloads, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(downloads, "LONGEST_PAUSE_SECONDS", 0.01)
    with web_server() as server:
        server.files["/file"] = CONTENT
        yield server


def test_a_broken_connection_is_continued(server: WebServer, tmp_path: Path) -> None:
    server.faults["/file"] = [("break", 1000), ("status", 503), ("break", 500)]
    came: list[int] = []
    assert download(f"{server.url}/file", tmp_path / "file", sha256=SHA256, advance=came.append) == SHA256
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert sum(came) == len(CONTENT)  # nothing came twice
    assert [wanted for _, wanted in server.requests] == [None, "bytes=1000-", "bytes=1000-", "bytes=1500-"]


def test_a_later_call_goes_on_where_the_first_gave_up(server: WebServer, tmp_path: Path) -> None:
    server.faults["/file"] = [("break", 1000), *[("status", 500)] * 6]
    with pytest.raises(DataError, match=r"7 requests in vain.*HTTP status 500.*file\.part"):
        download(f"{server.url}/file", tmp_path / "file")
    assert not (tmp_path / "file").exists()
    download(f"{server.url}/file", tmp_path / "file", sha256=SHA256)
    assert server.requests[-1] == ("/file", "bytes=1000-")


def test_a_server_without_ranges_sends_all_again(server: WebServer, tmp_path: Path) -> None:
    server.knows_ranges = False
    server.faults["/file"] = [("break", 1000)]
    download(f"{server.url}/file", tmp_path / "file", sha256=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_another_file_is_refused_and_not_kept(server: WebServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"SHA-256 {SHA256}.*{'0' * 64}"):
        download(f"{server.url}/file", tmp_path / "file", sha256="0" * 64)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("status", "words"), [(401, "wants a login"), (403, "refuses"), (404, "no such file")])
def test_a_refusal_is_not_repeated(server: WebServer, tmp_path: Path, status: int, words: str) -> None:
    server.faults["/file"] = [("status", status)]
    with pytest.raises(DataError, match=words):
        download(f"{server.url}/file", tmp_path / "file")
    assert len(server.requests) == 1


def test_a_directory_that_cannot_be_written(server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match="a file where a directory should be"):
        download(f"{server.url}/file", tmp_path / "taken" / "file")
