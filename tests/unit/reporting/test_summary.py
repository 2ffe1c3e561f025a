import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sisa_scale.reporting.html import render_report
from sisa_scale.reporting.style import smooth, thin
from sisa_scale.reporting.summary import changes, compact, flatten, headline_facts, score_text, wall_seconds
from sisa_scale.runs.files import read_run
from sisa_scale.runs.logs.evaluations import ScoreRow


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (152e6, "152M"), (1.5e9, "1.5B"), (2e12, "2T"), (6400, "6.4k")]
)
def test_compact(number: float, text: str) -> None:
    assert compact(number) == text


@pytest.mark.parametrize(
    ("value", "error", "unit", "text"),
    [
        (12.345, 0.56, "%", "12.3 ± 0.6 %"),
        (3.21456, 0.0123, "nats/token", "3.215 ± 0.012"),
        (7.1, None, "nats/token", "7.100"),
        (24897.0, 120.4, "per word", "24,897 ± 120.4"),
    ],
)
def test_score_text(value: float, error: float | None, unit: str, text: str) -> None:
    assert score_text(ScoreRow(1, 1, "t", "v", "m", unit, 5, value, error)) == text


def test_headlines(write_run: Callable[..., Path]) -> None:
    run = read_run(write_run(num_steps=60))
    facts = {fact.label: fact for fact in headline_facts(run)}
    assert facts["Parameters"].value == "152M"
    assert facts["Last word"].value == "20.0 ± 0.4 %"
    assert facts["Last word"].detail == "cloze-heldout, 200 items"
    assert "unigram entropy 7.10" in facts["Held-out loss"].detail
    assert facts["Training loss"].value == f"{np.mean([row.loss for row in run.steps[-20:]]):.3f}"


def test_wall_time_counts_an_attempt_without_an_end(write_run: Callable[..., Path]) -> None:
    path = write_run(num_steps=60)
    assert wall_seconds(read_run(path)) == 120
    lines = (path / "attempts.jsonl").read_text().splitlines()
    (path / "attempts.jsonl").write_text(lines[0].replace("09:00:45", "09:00:40") + "\n")
    assert wall_seconds(read_run(path)) == 40


def test_what_changed_between_attempts(write_run: Callable[..., Path]) -> None:
    run_dir = write_run(num_steps=0)
    assert changes(read_run(run_dir)) == []
    for attempt, (rate, version) in enumerate([("1e-3", "2.12"), ("1e-3", "2.12"), ("1e-4", "2.13")], 1):
        kept = run_dir / "attempts" / f"{attempt:04d}"
        kept.mkdir(parents=True)
        (kept / "config.yaml").write_text(f"name: x\noptimizer: {{learning_rate: '{rate}'}}\n")
        (kept / "provenance.json").write_text(json.dumps({"time": attempt, "packages": {"torch": version}}))
    run = read_run(run_dir)
    assert changes(run) == [
        (3, "optimizer.learning_rate", "1e-3", "1e-4"),
        (3, "provenance.packages.torch", "2.12", "2.13"),
    ]
    page = render_report([run])
    assert "What changed between attempts" in page
    assert "<td>optimizer.learning_rate</td><td>1e-3</td><td>1e-4</td>" in page


def test_flatten() -> None:
    assert list(flatten({"a": {"b": 1, "c": [1, 2]}, "d": None})) == [("a.b", "1"), ("a.c", "1, 2"), ("d", "–")]


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50), st.integers(1, 20))
def test_smoothing_stays_inside_and_keeps_constants(values: list[float], span: int) -> None:
    smoothed = smooth(values, span)
    assert (smoothed >= min(values) - 1e-6).all()
    assert (smoothed <= max(values) + 1e-6).all()
    assert smooth([values[0]] * len(values), span) == pytest.approx(values[0], abs=1e-6)


def test_smoothing_skips_what_is_not_finite() -> None:
    assert smooth([1.0, math.nan, 3.0], 3).tolist() == [1.0, 2.0, 3.0]
    assert np.isnan(smooth([math.nan], 1)).all()


def test_thinning_keeps_spikes_and_ends() -> None:
    x, y = np.arange(50_000.0), np.zeros(50_000)
    y[[12_345, 23_456]] = 9, -9
    kept_x, kept_y = thin(x, y)
    assert len(kept_x) <= 1202
    assert (kept_x[0], kept_x[-1]) == (0, 49_999)
    assert (kept_y.max(), kept_y.min()) == (9, -9)
    assert (np.diff(kept_x) > 0).all()
