from pathlib import Path

import pytest

from sisa_scale.cli.common.reporter import ConsoleReporter
from sisa_scale.launching.submission import Submission


def test_a_job_is_named_with_what_to_do_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ConsoleReporter().submitted(Submission("slurm", "12", f"{tmp_path}/runs/a b/jobs/0001"))
    assert capsys.readouterr().out == (
        f"job     12 (slurm)\nfiles   {tmp_path}/runs/a b/jobs/0001\n"
        "logs    sisa-scale logs 'runs/a b'\ncancel  sisa-scale cancel 'runs/a b'\n"
    )


def test_lines_of_a_job_are_printed_as_they_are_and_sentences_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = ConsoleReporter()
    reporter.line("[bold]loss[/bold] 1.0")
    reporter.announce("[1] of 2")
    assert capsys.readouterr().out == "[bold]loss[/bold] 1.0\n· [1] of 2\n"
