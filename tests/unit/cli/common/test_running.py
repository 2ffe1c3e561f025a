from pathlib import Path

import click
import pytest

from sisa_scale.cli.common.running import describe
from sisa_scale.launching.launcher import Ended
from sisa_scale.runs.exit_codes import PREEMPTED


def test_a_finished_run_is_to_be_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    describe(Ended(Path("runs/a"), "finished", Path("runs/a/report.html")))
    expected = "run     runs/a (finished)\nreport  runs/a/report.html\nnext    sisa-scale evaluate runs/a\n"
    assert capsys.readouterr().out == expected


def test_a_run_that_was_stopped_is_to_be_resumed_and_the_exit_code_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.exceptions.Exit) as end:
        describe(Ended(Path("runs/a"), "preempted", None))
    assert end.value.exit_code == PREEMPTED
    assert capsys.readouterr().out == "run     runs/a (preempted)\nnext    sisa-scale resume runs/a\n"
