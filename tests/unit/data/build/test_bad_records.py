"""Records that cannot be used end a build before anything is tokenized, or are left out and listed."""

import gzip
import json
from functools import partial
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from data_sets import texts_of

from sisa_scale.data.build.pipeline import BuildProgress, build_dataset
from sisa_scale.data.build.shards.staging import staging_path
from sisa_scale.errors import DataError

build = partial(build_dataset, block_tokens=256, heldout_fraction=0)

GOOD = [f"a whale and storm {number}" for number in range(20)]


def line(text: object) -> bytes:
    return json.dumps({"text": text}).encode() + b"\n"


LINES = [*map(line, GOOD[:10]), b"\n", *map(line, GOOD[10:])]
BAD_LINES = {
    "null": (line(None), "found null in the field 'text'"),
    "number": (line(7), "found int 7 in the field 'text'"),
    "surrogate": (b'{"text": "\\ud83d"}\n', "found half of a surrogate pair"),
    "torn": (b'{"text": "a wh', "found a line that is not JSON"),
    "bytes": (b'{"text": "caf\xe9"}\n', "found the byte 0xe9 at byte offset 13"),
    "field": (b'{"body": "a"}\n', "found the fields ['body']"),
}


@pytest.mark.parametrize(("kind", "packing"), [*((kind, "") for kind in BAD_LINES), ("null", ".gz"), ("torn", ".gz")])
def test_a_bad_line_fails_first_and_can_be_skipped(
    tokenizer_path: Path, tmp_path: Path, kind: str, packing: str
) -> None:
    raw, said = BAD_LINES[kind]
    lines = [*LINES[:15], raw, *LINES[15:]] if kind != "torn" else [*LINES, raw]
    content = b"".join(lines)
    (tmp_path / "part").mkdir()
    path = tmp_path / "part" / f"a.jsonl{packing}"
    path.write_bytes(gzip.compress(content) if packing else content)
    (tmp_path / "b.jsonl").write_bytes(line("the other file"))
    stages: list[str] = []

    def note(progress: BuildProgress) -> None:
        stages.append(progress.stage)

    run = partial(
        build, [path.parent, tmp_path / "b.jsonl"], tokenizer=tokenizer_path, out=tmp_path / "out", unit_bytes=200
    )
    with pytest.raises(DataError) as caught:
        run(progress=note, resumable=True)
    number = lines.index(raw) + 1
    assert f"part/a.jsonl{packing}, line {number}: {said}" in str(caught.value)
    assert "1 bad records or empty files in all" in str(caught.value)
    assert "--on-bad-record skip" in str(caught.value)
    assert set(stages) == {"survey"}
    assert not staging_path(tmp_path / "out").exists()
    manifest = run(on_bad_record="skip")
    assert texts_of(tmp_path / "out") == [*GOOD, "the other file"]
    assert manifest.build is not None
    assert manifest.build.num_removed["bad_record"] == 1
    (entry,) = manifest.build.bad_records
    assert (entry["file"], entry["where"]) == (f"part/a.jsonl{packing}", f"line {number}")
    assert said.removeprefix("found ") in entry["found"]


def test_bad_rows_are_named_as_editors_count(tokenizer_path: Path, tmp_path: Path) -> None:
    raw: list[bytes | None] = [text.encode() for text in GOOD]
    raw[6], raw[13] = None, b"caf\xe9"
    array = pyarrow.array(raw, pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": array}), tmp_path / "a.parquet", row_group_size=5)
    run = partial(build, [tmp_path / "a.parquet"], tokenizer=tokenizer_path, out=tmp_path / "out")
    with pytest.raises(DataError) as caught:
        run()
    assert "a.parquet, row 7: found no value in the column 'text'" in str(caught.value)
    assert "a.parquet, row 14: found the byte 0xe9" in str(caught.value)
    manifest = run(on_bad_record="skip")
    assert texts_of(tmp_path / "out") == [text for number, text in enumerate(GOOD) if number not in (6, 13)]
    assert manifest.build is not None
    assert [entry["where"] for entry in manifest.build.bad_records] == ["row 7", "row 14"]


def test_empty_files_are_all_named_at_once_or_passed_over(tokenizer_path: Path, tmp_path: Path) -> None:
    for name, content in {"a": b"".join(LINES), "b": b"", "c": b"\n\n", "d": line("")}.items():
        (tmp_path / f"{name}.jsonl").write_bytes(content)
    (tmp_path / "e.txt").touch()
    (tmp_path / "f.txt").write_bytes(b"caf\xe9")
    run = partial(build, [tmp_path], tokenizer=tokenizer_path, out=tmp_path / "out")
    with pytest.raises(DataError, match=r"b\.jsonl: found no document(.|\n)*e\.txt: found no document"):
        run()
    (tmp_path / "b.jsonl").unlink()
    (tmp_path / "e.txt").unlink()
    with pytest.raises(
        DataError, match=r"f\.txt: found the byte(.|\n)*c\.jsonl: found no doc(.|\n)*d\.jsonl: found no doc"
    ):
        run()
    manifest = run(on_bad_record="skip")
    assert [source.name for source in manifest.sources] == ["a.jsonl"]
    assert manifest.build is not None
    assert [entry["name"] for entry in manifest.build.passed_over] == ["c.jsonl", "d.jsonl", "f.txt"]


def test_a_stream_that_is_cut_off_keeps_what_came_before(tokenizer_path: Path, tmp_path: Path) -> None:
    # Two members, of which the second is cut off.
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"".join(LINES)) + gzip.compress(line("more"))[:-9])
    run = partial(build, [tmp_path], tokenizer=tokenizer_path, out=tmp_path / "out")
    with pytest.raises(DataError, match=r"damaged or cut off \.gz stream"):
        run()
    run(on_bad_record="skip")
    assert texts_of(tmp_path / "out")[:20] == GOOD


def test_a_build_under_way_may_change_its_mind(tokenizer_path: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"".join(LINES) + line(None))
    run = partial(
        build, [tmp_path / "a.jsonl"], tokenizer=tokenizer_path, out=tmp_path / "out", unit_bytes=200, resumable=True
    )

    def interrupt(progress: BuildProgress) -> None:
        if progress.stage == "assemble":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(on_bad_record="skip", progress=interrupt)
    with pytest.raises(DataError, match="line 22: found null"):
        run()
    said: list[str] = []
    run(on_bad_record="skip", announce=said.append)
    assert any("units are done already" in text for text in said)
