"""What a build reads of directories, links and patterns, and what it says of the rest."""

import gzip
import json
import os
from functools import partial
from pathlib import Path

import pytest

from sisa_scale.data.build.inputs.find import find_inputs
from sisa_scale.data.build.pipeline import build_dataset
from sisa_scale.data.manifest import load_manifest
from sisa_scale.errors import DataError

LINE = b'{"text": "a document"}\n'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with every kind of entry: read in the order of this list, or passed over."""
    root = tmp_path / "corpus"
    for name in ("B.JSONL", "a.jsonl", "c.ndjson", "sub/d.jsonl", ".notebooks/a.jsonl", "sub/.e.jsonl", "package.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(LINE)
    (root / "b.json.gz").write_bytes(gzip.compress(LINE))
    (root / "readme.md").write_text("words")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "g.jsonl").write_bytes(LINE)
    (root / "linked").symlink_to("../other")
    (root / "sub" / "again").symlink_to("../../other")
    (root / "sub" / "up").symlink_to("..")
    (root / "file.jsonl").symlink_to("../other/g.jsonl")
    os.mkfifo(root / "pipe.jsonl")
    return root


READ = ["B.JSONL", "a.jsonl", "b.json.gz", "c.ndjson", "file.jsonl", "linked/g.jsonl", "sub/d.jsonl"]
PASSED_OVER = {
    ".notebooks/": "begins with a dot",
    "package.json": "name it",
    "pipe.jsonl": "no regular file",
    "readme.md": "'.md'",
    "sub/.e.jsonl": "begins with a dot",
    "sub/again/": "read already",
    "sub/up/": "read anyway",
}


def test_a_directory_is_read_through_links_and_the_rest_is_named(tree: Path) -> None:
    found = find_inputs([tree])
    assert [file.name for file in found.files] == READ
    assert [entry.name for entry in found.passed_over] == list(PASSED_OVER)
    for entry in found.passed_over:
        assert PASSED_OVER[entry.name] in entry.reason


def test_links_to_nothing_and_folders_that_may_not_be_read_are_errors(tree: Path, monkeypatch) -> None:
    (tree / "zz").symlink_to("absent")
    with pytest.raises(DataError, match=r"zz: found a link to absent, which is not there"):
        find_inputs([tree])
    (tree / "zz").unlink()

    def refuse(path: str, mode: int) -> bool:
        return not path.endswith("a.jsonl")

    monkeypatch.setattr(os, "access", refuse)
    with pytest.raises(DataError, match=r"a\.jsonl: found no permission"):
        find_inputs([tree])

    def scan(_: str) -> None:
        raise PermissionError(13, "Permission denied", str(tree))

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(DataError, match=r"corpus: found no permission"):
        find_inputs([tree])


@pytest.mark.parametrize(
    ("pattern", "read"),
    [
        ("*.jsonl", ["a.jsonl", "file.jsonl"]),
        ("*.json", ["package.json"]),
        ("**/*.jsonl", ["a.jsonl", "file.jsonl", "linked/g.jsonl", "sub/d.jsonl"]),
        ("su?", ["sub/d.jsonl", "sub/up/B.JSONL"]),
        ("[bc].*", ["b.json.gz", "c.ndjson"]),
    ],
)
def test_patterns_work_quoted(tree: Path, pattern: str, read: list[str]) -> None:
    if pattern in ("**/*.jsonl", "su?"):
        (tree / "sub" / "up").unlink()
        (tree / "sub" / "again").unlink()
        read = [name for name in read if "up/" not in name]
    found = find_inputs([f"{tree}/{pattern}"])
    assert [file.name for file in found.files] == read


def test_patterns_without_a_match_and_strange_names(tree: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        find_inputs([tree / "absent.jsonl"])
    with pytest.raises(DataError, match="a pattern without any text file"):
        find_inputs([f"{tree}/*.parquet"])
    with pytest.raises(DataError, match=r"a pattern without any text file(.|\n)*readme\.md: its ending"):
        find_inputs([f"{tree}/r*"])
    (tree / "x[1].jsonl").write_bytes(LINE)  # a file of that name is no pattern
    assert [file.name for file in find_inputs([tree / "x[1].jsonl"]).files] == ["x[1].jsonl"]
    strange = os.fsdecode(os.fsencode(tree) + b"/100%d\n\xff.jsonl")  # with an end of a line and a byte that is no text
    Path(strange).write_bytes(LINE)
    (file,) = find_inputs([strange]).files
    assert file.name == r"100%d\n\xff.jsonl"
    assert file.label.isprintable()
    assert b"".join(file.chunks()) == LINE


def test_names_are_relative_to_what_the_inputs_share(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert [file.name for file in find_inputs(["sub", "a.jsonl"]).files][-1] == "a.jsonl"
    assert find_inputs(["sub"]).files[-1].name == "d.jsonl"
    other = find_inputs(["sub", "../other"]).files
    assert {"corpus/sub/d.jsonl", "other/g.jsonl"} <= {file.name for file in other}
    assert [file.name for file in find_inputs(["a.jsonl", str(tree / "c.ndjson")]).files] == ["a.jsonl", "c.ndjson"]


def test_the_manifest_lists_what_was_read_and_passed_over(tree: Path, tokenizer_path: Path, tmp_path: Path) -> None:
    said: list[str] = []
    build = partial(build_dataset, tokenizer=tokenizer_path, block_tokens=256, heldout_fraction=0)
    build([tree], out=tmp_path / "out", announce=said.append)
    manifest = load_manifest(tmp_path / "out")
    assert [source.name for source in manifest.sources] == READ
    assert manifest.build is not None
    assert [entry["name"] for entry in manifest.build.passed_over] == list(PASSED_OVER)
    assert manifest.build.num_passed_over == len(PASSED_OVER)
    text = "\n".join(said)
    assert "reading 7 files" in text
    assert all(name in text for name in PASSED_OVER)
    assert json.loads((tmp_path / "out" / "statistics.json").read_text())["sources"][-1]["name"] == "sub/d.jsonl"
