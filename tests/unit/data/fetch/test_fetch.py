import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from web_server import WebServer, web_server

from sisa_scale.cli.data.fetch import command
from sisa_scale.data.fetch.catalogue import CATALOGUE, HubFiles, WebFile
from sisa_scale.errors import ConfigError, DataError

REPO = "datasets/roneneldan/TinyStories"
TREE = f"/api/{REPO}/tree/main/data"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """A hub of three files of 100, 200 and 300 bytes, listed on two pages beside others."""
    with web_server() as server:
        rows: list[dict[str, object]] = [{"type": "directory", "path": "data/old", "oid": "a"}]
        rows.append({"type": "file", "path": "data/README.md", "size": 5, "oid": "b"})
        for number in (3, 1, 2):
            path, body = f"data/train-{number}.parquet", bytes([number]) * 100 * number
            server.files[f"/{REPO}/resolve/main/{path}"] = body
            lfs = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 1}
            rows.append({"type": "file", "path": path, "size": len(body), "oid": "c", "lfs": lfs})
        server.add_json(TREE, rows[:3], next_path=f"{TREE}-2")
        server.add_json(f"{TREE}-2", rows[3:])
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_catalogue_is_listed() -> None:
    listed = json.loads(run("--json"))
    assert {row["name"] for row in listed} == set(CATALOGUE)
    assert all(row["licence"] and row["size"] for row in listed)


def test_entries_have_addresses_and_sums() -> None:
    for entry in CATALOGUE.values():
        if isinstance(entry.files, WebFile):
            assert entry.files.url.startswith("https://") and len(entry.files.sha256) == 64
        else:
            assert isinstance(entry.files, HubFiles) and entry.files.repo.count("/") == 1


def test_a_corpus_is_fetched_once(hub: WebServer, tmp_path: Path) -> None:
    output = run("tinystories", "--out", str(tmp_path))
    assert f"sisa-scale data build {tmp_path}" in output.replace("\n", "")
    assert {path.name: path.stat().st_size for path in tmp_path.glob("*.parquet")} == {
        f"train-{number}.parquet": 100 * number for number in (1, 2, 3)
    }
    record = json.loads((tmp_path / "fetched.json").read_text())
    assert record["licence"] == "CDLA-Sharing-1.0" and len(record["files"]) == 3
    hub.requests.clear()
    run("tinystories", "--out", str(tmp_path))
    assert all("/api/" in path for path, _ in hub.requests)  # the listing alone


def test_the_first_files_up_to_a_size(hub: WebServer, tmp_path: Path) -> None:
    run("tinystories", "--out", str(tmp_path), "--gigabytes", "3.5e-7")
    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == ["train-1.parquet", "train-2.parquet"]
    run("tinystories", "--out", str(tmp_path / "small"), "--gigabytes", "1e-9")
    assert len(list((tmp_path / "small").glob("*.parquet"))) == 1


def test_a_file_that_changed_on_the_way_is_refused(hub: WebServer, tmp_path: Path) -> None:
    hub.files[f"/{REPO}/resolve/main/data/train-2.parquet"] = b"x" * 200
    with pytest.raises(DataError, match="SHA-256"):
        run("tinystories", "--out", str(tmp_path))
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["train-1.parquet"]


def test_a_file_that_was_cut_is_fetched_again(hub: WebServer, tmp_path: Path) -> None:
    run("tinystories", "--out", str(tmp_path))
    (tmp_path / "train-3.parquet").write_bytes(b"short")
    run("tinystories", "--out", str(tmp_path))
    assert (tmp_path / "train-3.parquet").stat().st_size == 300


def test_names_and_sources_that_are_not_there(hub: WebServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'pile'.*tinystories"):
        run("pile")
    with pytest.raises(DataError, match="no listing"):
        run("wikipedia-en", "--out", str(tmp_path))
    hub.links.clear()
    hub.add_json(TREE, [])
    with pytest.raises(DataError, match=r"no file \.parquet in data"):
        run("tinystories", "--out", str(tmp_path))
