import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sisa_scale.errors import DataError
from sisa_scale.runs.logs.jsonl import LineFeed, append_line, last_lines, read_lines, read_rows, write_lines
from sisa_scale.runs.problems import RunDirectoryError

LINES = st.lists(st.dictionaries(st.text(max_size=4), st.integers(-(2**60), 2**60) | st.text(max_size=4)), max_size=6)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


@given(LINES, st.integers(0, 80))
def test_whatever_a_crash_cut_off_the_whole_lines_are_read(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, object]], cut: int
) -> None:
    log = tmp_path_factory.mktemp("log") / "log.jsonl"
    for line in lines:
        append_line(log, line)
    content = log.read_bytes() if lines else b""
    log.write_bytes(content[: max(0, len(content) - cut)])
    whole = log.read_bytes().count(b"\n")
    assert list(read_lines(log))[:whole] == lines[:whole]
    append_line(log, {"after": 1})
    found = list(read_lines(log))
    assert found[:whole] == lines[:whole]
    assert found[-1] == {"after": 1}


def test_a_torn_line_in_the_midst_is_left_out(log: Path) -> None:
    log.write_bytes(b'{"a": 1}\n{"a"\n\0\0\n7\n[1]\n\n{"a": NaN}\n{"a": 2')
    found = list(read_lines(log))
    assert found[0] == {"a": 1}
    assert math.isnan(found[1]["a"])
    assert len(found) == 2


def test_the_end_of_a_log_begins_with_a_whole_line(log: Path) -> None:
    write_lines(log, [{"number": number} for number in range(100)])
    length = len(b'{"number": 99}\n')
    assert last_lines(log, 3 * length - 1) == [{"number": 98}, {"number": 99}]
    assert len(last_lines(log, 1 << 20)) == 100
    assert last_lines(log.with_name("none"), 10) == []


def test_rows_are_strict_but_for_a_torn_end(log: Path) -> None:
    notes: list[str] = []
    log.write_text('{"a": 1}\n{"a": 2')
    assert read_rows(log, lambda line: line["a"], notes) == [1]
    assert notes == ["log.jsonl:2 is torn and left out; the process died while writing it"]
    log.write_text('{"a": 1}\n{"b": 2}\n')
    with pytest.raises(DataError, match=r"log\.jsonl:2: found KeyError"):
        read_rows(log, lambda line: line["a"], notes)


def test_a_feed_gives_every_line_once_and_begins_anew_with_another_file(log: Path) -> None:
    feed = LineFeed(log)
    assert feed.news() == []
    append_line(log, {"a": 1})
    with log.open("a") as stream:
        stream.write('{"a": ')
    assert feed.news() == [{"a": 1}]
    with log.open("a") as stream:
        stream.write("2}\n")
    assert feed.news() == [{"a": 2}]
    write_lines(log, [{"a": 9}])
    assert feed.news() == [{"a": 9}]


def test_a_feed_may_skip_what_is_there(log: Path) -> None:
    append_line(log, {"a": 1})
    feed = LineFeed(log, skips_present=True)
    assert feed.news() == []
    append_line(log, {"a": 2})
    assert feed.news() == [{"a": 2}]


def test_a_full_disk_is_one_message(log: Path) -> None:
    log.symlink_to("/dev/full")
    with pytest.raises(RunDirectoryError, match=r"log\.jsonl: found a full disk.*Free space") as caught:
        append_line(log, {"a": 1})
    assert caught.value.exit_code == 4


def test_lines_are_one_write_each(log: Path) -> None:
    append_line(log, {"a": "é"})
    assert json.loads(log.read_text()) == {"a": "é"}
    assert log.read_bytes().endswith(b"\n")
