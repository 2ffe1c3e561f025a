"""`status` of several runs, and `status --watch` in a real terminal."""

import json
import math
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from sisa_scale.cli import status as status_command
from sisa_scale.cli.common.watch_page import ORDERS, look, page, sparkline
from sisa_scale.cli.main import cli
from sisa_scale.errors import ConfigError

GOLDEN = Path(__file__).parents[3] / "golden" / "run_0_1" / "run"
COMMAND = [sys.executable, "-m", "sisa_scale.cli.main", "status"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs, one of them in a study: of 12, 6 and 9 steps, with losses as far as those steps."""
    for name, num_steps in (("a", 12), ("studies/s/trials/b", 6), ("c", 9)):
        shutil.copytree(GOLDEN, tmp_path / name)
        lines = (GOLDEN / "metrics.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / name / "metrics.jsonl").write_text("".join(lines[:num_steps]))
        recipe = (GOLDEN / "config.yaml").read_text()
        (tmp_path / name / "config.yaml").write_text(re.sub("^name:.*", f"name: {name[-1]}", recipe, flags=re.M))
    return tmp_path


def names(runs: Path, order: str) -> str:
    return "".join(one.status.name for one in look(runs, order))


def test_runs_are_found_in_studies_and_sorted_as_asked(runs: Path) -> None:
    assert names(runs, "name") == "abc"
    assert names(runs, "step") == names(runs, "progress") == "acb"
    assert names(runs, "loss") == "acb"
    for order in ORDERS:
        assert sorted(names(runs, order)) == ["a", "b", "c"]
    assert set(ORDERS) == set(status_command._ORDERS)
    (runs / "c" / "metrics.jsonl").write_text("")
    assert names(runs, "loss") == names(runs, "rate") == "abc" or names(runs, "loss")[-1] == "c"
    (runs / "b").mkdir()
    (runs / "b" / "config.yaml").write_text("name: [")  # half made
    assert names(runs, "name") == "abc"


def test_a_directory_of_runs_is_a_table_and_json_a_list(runs: Path) -> None:
    printed = CliRunner().invoke(cli, ["status", str(runs), "--json", "--sort", "step"]).stdout
    assert [run["step"] for run in json.loads(printed)] == [12, 9, 6]
    assert CliRunner().invoke(cli, ["status", str(runs), "--verify"]).exit_code == 2
    with pytest.raises(ConfigError):
        look(runs / "studies" / "s" / "trials" / "b" / "checkpoints")


def test_names_do_nothing_to_the_terminal(runs: Path) -> None:
    recipe = (runs / "a" / "config.yaml").read_text()
    hostile = json.dumps("\x1b[2J[bold]x[/bold]\x07")
    (runs / "a" / "config.yaml").write_text(re.sub("^name:.*", lambda _: f"name: {hostile}", recipe, flags=re.M))
    from rich.console import Console

    for looks, is_one in ((look(runs), False), (look(runs / "a"), True)):
        console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
        console.print(page(looks, is_one=is_one))
        text = console.export_text()
        assert "?[2J[bold]x[/bold]?" in text
        assert "\x1b" not in text


def test_without_a_terminal_it_prints_once_in_the_letters_that_there_are(runs: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*COMMAND, runs / "a", "--watch"], capture_output=True, text=True, env=environment, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "step 12 of 12" in done.stdout
    assert re.search(r"loss  [#*+=\-:._]{12}  5\.77\d\d to 5\.42\d\d in 12 steps", done.stdout)
    assert done.stdout.count("finished") == 2


def test_in_a_terminal_it_is_drawn_again_until_it_is_interrupted(runs: Path) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
    process = subprocess.Popen([*COMMAND, str(runs), "--watch", "--every", "0.2"], stdout=theirs, env=environment)
    os.close(theirs)
    text, until, is_more, is_told = "", time.monotonic() + 120, False, False
    while time.monotonic() < until:
        try:
            text += os.read(ours, 1 << 16).decode("utf-8", "replace")
        except OSError:  # it has ended
            break
        if "Ctrl-C ends" in text and not is_more:
            lines = (GOLDEN / "metrics.jsonl").read_text().splitlines(keepends=True)
            (runs / "c" / "metrics.jsonl").write_text("".join(lines[:11]))
            is_more = True
        if is_more and re.search(r"\b11\b", text) and not is_told:
            process.send_signal(signal.SIGINT)
            is_told = True
    os.close(ours)
    assert process.wait(timeout=60) == 0
    assert is_told
    assert text.index("\x1b[?1049h") < text.index("\x1b[?1049l")  # a page of its own, which is left again
    assert re.search(r"\b11\b", text[text.index("\x1b[?1049l") :])  # and the last state stays


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=200), st.integers(1, 60))
def test_a_sparkline_is_as_long_as_it_may_be(values: list[float], cells: int) -> None:
    line = sparkline([v if not math.isfinite(v) else v % 1e6 for v in values], cells)
    assert len(line) == min(cells, len(values))
    assert set(line) <= set(" ▁▂▃▄▅▆▇█")


def test_a_sparkline_follows_the_loss() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8) == "█▇▆▅▄▃▂▁"
    assert sparkline([2.0, math.nan, math.inf, 1.0], 4) == "█  ▁"
    assert sparkline([3.0, 3.0], 8) == "▁▁"
    assert sparkline([], 8) == ""
