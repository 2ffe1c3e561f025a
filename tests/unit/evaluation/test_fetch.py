import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sisa_scale.errors import DataError
from sisa_scale.evaluation.fetch import fetch_once, lambada_file

CONTENT = b'{"text": "one two"}\n'
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    served = tmp_path / "served"
    served.mkdir()
    (served / "text.jsonl").write_bytes(CONTENT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=served)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/text.jsonl"
        server.shutdown()
        thread.join()


def test_file_is_fetched_once(url: str, tmp_path: Path) -> None:
    path = fetch_once(url, SHA256)
    assert path.read_bytes() == CONTENT
    (tmp_path / "served" / "text.jsonl").unlink()
    assert fetch_once(url, SHA256) == path


def test_another_file_is_refused_and_not_kept(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=SHA256):
        fetch_once(url, "0" * 64)
    assert not list((tmp_path / "cache").rglob("*.jsonl*"))


def test_missing_file_says_where_to_put_it(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path / "cache")):
        fetch_once(url.replace("text", "nothing"), SHA256)


def test_a_path_is_taken_as_it_is() -> None:
    assert lambada_file("some/file.jsonl") == Path("some/file.jsonl")
