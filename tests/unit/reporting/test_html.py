import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sisa_scale.errors import DataError
from sisa_scale.reporting.html import write_report
from sisa_scale.runs.logs.evaluations import ScoreRow, append_later_scores

WriteRun = Callable[..., Path]
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Outline(HTMLParser):
    """Collects text, ids and start tags, and fails on tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def report(tmp_path: Path, *runs: Path) -> str:
    return write_report(runs, tmp_path / "out" / "report.html").read_text()


def test_health_and_samples_are_shown_where_a_run_has_them(write_run: WriteRun, tmp_path: Path) -> None:
    run_dir = write_run(num_steps=20, num_layers=0)
    names = ("gradient_norm", "activation_rms", "largest_logit", "update_ratio")
    rows = [{"step": step} | {name: [step * 0.1, None] for name in names} for step in (10, 20)]
    rows[1] |= {"activation_rms": [None, None]}
    (run_dir / "health.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = [
        {"step": step, "tokens": 7 * step, "samples": [{"prompt": "<b>The", "text": f" sea</td> {step}\n"}]}
        for step in (10, 20)
    ]
    (run_dir / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    outline = Outline(report(tmp_path, run_dir))
    assert outline.tags.count("svg") == 9
    assert "<b>The sea</td> 20" in outline.text
    assert "Earlier samples (1)" in outline.text
    assert outline.text.index("sea</td> 20") < outline.text.index("sea</td> 10")


def test_one_run(write_run: WriteRun, tmp_path: Path) -> None:
    outline = Outline(report(tmp_path, write_run()))
    assert outline.tags.count("svg") == 12
    for text in ("152M", "3.93M", "bits per byte", "cloze-heldout", "needle-random", "preempted (SIGTERM)"):
        assert text in outline.text
    assert "mixer: sisa" in outline.text
    assert "skipped: too long" in outline.text
    assert "7.10" in outline.text
    assert "Comparison" not in outline.text


def test_what_was_measured_later_has_a_table_and_a_curve(write_run: WriteRun, tmp_path: Path) -> None:
    run = write_run(num_steps=6, num_layers=0)
    for scaling, best in (("none", 40.0), ("yarn", 90.0), ("yarn", 99.0)):
        rows = [
            ScoreRow(60, 3_932_160, "needle-curve", "needle-curve", f"exact_match_{length}", "%", 100, value, 4.0)
            for length, value in ((512, 99.0), (1024, best), (2048, None))
        ]
        append_later_scores(run, rows, "2026-03-03T10:00:00Z", ["max_length_tokens=2048", f"rope.scaling={scaling}"])
    outline = Outline(report(tmp_path, run))
    assert outline.tags.count("svg") == 6
    assert outline.text.count("2026-03-03T10:00:00Z") == 3
    assert outline.text.count("needle-curve, rope yarn") == 1  # the newer of two
    assert outline.text.count("needle-curve, rope none") == 1


def test_two_runs_with_hostile_names(write_run: WriteRun, tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", '_$\\frac{$&amp;"><img src=x onerror=alert(1)>']
    first, second = (write_run(str(index), name=name, num_layers=0) for index, name in enumerate(names))
    with (second / "metrics.jsonl").open("a") as stream:
        stream.write('{"st')
    page = report(tmp_path, first, second)
    outline = Outline(page)

    assert outline.text.index("Comparison of 2 runs") < outline.text.index("Run report")
    assert outline.tags.count("svg") == 2 + 5 + 5  # a run without monitors has five figures of its own
    assert outline.text.count("needle · exact match (%) on needle-random") == 1
    assert "metrics.jsonl:61 is torn" in outline.text

    assert not {"script", "img", "link", "iframe"} & set(outline.tags)
    assert all(outline.text.count(name) >= 3 for name in names)

    own = page.replace(str(tmp_path), "")
    assert not re.search(r"https?:|@import|url\((?!#)", own)
    assert len(outline.ids) == len(set(outline.ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(outline.ids)


def test_all_values_are_escaped(write_run: WriteRun, tmp_path: Path) -> None:
    path, evil = write_run(num_layers=0), "<b>evil</b>"
    (path / "config.yaml").write_text(f"note: {evil}\n")
    (path / "provenance.json").write_text(json.dumps({evil: [evil]}))
    for name in ("attempts.jsonl", "evaluations.jsonl"):
        text = (path / name).read_text()
        for value in ("interrupted", "preempted (SIGTERM)", "hand-made", "cloze-heldout", "accuracy", "bits/byte"):
            text = text.replace(f'"{value}"', json.dumps(evil))
        (path / name).write_text(text)
    outline = Outline(report(tmp_path, path))
    assert "b" not in outline.tags
    assert outline.text.count(evil) > 10


def test_hardly_begun_runs(write_run: WriteRun, tmp_path: Path) -> None:
    empty, single = write_run("empty", num_steps=0), write_run("single", num_steps=1, num_layers=2)
    assert "No step has been recorded yet" in Outline(report(tmp_path, empty)).text
    assert Outline(report(tmp_path, empty, single)).tags.count("svg") == 2 + 12
    assert Outline(report(tmp_path, empty, empty)).tags.count("svg") == 0


def test_a_diverged_run_still_has_a_report(write_run: WriteRun, tmp_path: Path) -> None:
    path = write_run(num_steps=120, num_layers=0)
    lines = (path / "metrics.jsonl").read_text().splitlines()
    lines[3:] = [re.sub(r'"(loss|gradient_norm)": [^,]+', r'"\1": NaN', line) for line in lines[3:]]
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    text = Outline(report(tmp_path, path, write_run("empty", num_steps=0))).text
    assert "nan" in text
    assert text.count("Refused steps") == 1
    assert "117 steps in 2 series." in text  # one an attempt
    assert "taken all the same" in text


def test_the_same_run_gives_the_same_bytes(write_run: WriteRun, tmp_path: Path) -> None:
    path = write_run(num_steps=3, num_layers=0)
    assert report(tmp_path, path) == report(tmp_path, path)


def test_a_bad_run_leaves_no_report(write_run: WriteRun, tmp_path: Path) -> None:
    path = write_run()
    (path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(DataError):
        report(tmp_path, path)
    with pytest.raises(DataError, match="no run"):
        report(tmp_path)
    assert not (tmp_path / "out" / "report.html").exists()


def test_reporting_needs_no_torch() -> None:
    code = "import sys, sisa_scale.reporting.html; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
