from pathlib import Path

import pytest

from sisa_scale.errors import DataError
from sisa_scale.runs.logs.evaluations import (
    LaterScores,
    ScoreRow,
    append_later_scores,
    append_scores,
    heldout_losses,
    read_later_scores,
    read_scores,
)

LINE = (
    '{"step": 4, "tokens": 1024, "scores": [{"task": "loss", "variant": "heldout", "metric": "loss", "value": 5.7365, '
    '"standard_error": 0.00115, "num_items": 8, "unit": "nats/token", "note": ""}, {"task": "needle", "variant": "n", '
    '"metric": "exact_match", "value": null, "standard_error": null, "num_items": 0, "unit": "%", "note": "long"}]}\n'
)


def test_a_line_comes_back_to_the_last_byte(tmp_path: Path) -> None:
    (tmp_path / "evaluations.jsonl").write_text(LINE)
    rows = read_scores(tmp_path)
    assert [row.is_heldout_loss for row in rows] == [True, False]
    (tmp_path / "evaluations.jsonl").unlink()
    append_scores(tmp_path, rows)
    assert (tmp_path / "evaluations.jsonl").read_text() == LINE


def test_heldout_losses_by_step_pass_over_torn_lines(tmp_path: Path) -> None:
    assert heldout_losses(tmp_path) == {}
    row = ScoreRow(4, 1024, "loss", "heldout", "loss", "nats/token", 8, 5.5)
    append_scores(tmp_path, [row])
    with (tmp_path / "evaluations.jsonl").open("a") as stream:
        stream.write('{"step": 8, "tok')
    append_scores(tmp_path, [ScoreRow(8, 2048, "loss", "heldout", "loss", "nats/token", 8, None, None, "skipped")])
    append_scores(tmp_path, [ScoreRow(12, 3072, "loss", "heldout", "loss", "nats/token", 8, 4.5)])
    assert heldout_losses(tmp_path) == {4: 5.5, 12: 4.5}


def test_a_value_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "evaluations.jsonl").write_text(LINE.replace("5.7365", '"5.7"'))
    with pytest.raises(DataError, match=r"evaluations\.jsonl:1: found TypeError: the value of loss is not a number"):
        read_scores(tmp_path)


def test_what_was_measured_later_stands_apart(tmp_path: Path) -> None:
    row = ScoreRow(4, 1024, "needle-curve", "needle-curve", "exact_match_64", "%", 8, 75.0, 5.5)
    append_later_scores(tmp_path, [row], "now", ["model.max_length_tokens=64", "model.rope.scaling=yarn"])
    append_later_scores(tmp_path, [row], "then", [])
    later = read_later_scores(tmp_path)
    assert later[1] == LaterScores(4, "then", (), (row,))
    assert [one.rope_scaling for one in later] == ["yarn", None]
    assert read_scores(tmp_path) == []
