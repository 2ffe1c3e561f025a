from pathlib import Path

from sisa_scale.runs.logs.monitors import MonitorRow, append_monitor, read_monitors

LINE = '{"step": 2, "half_life_tokens": [106.1, 101.5], "lambda": [[0.3133, 0.25], [0.31, 0.5]]}\n'


def test_a_line_comes_back_to_the_last_byte(tmp_path: Path) -> None:
    (tmp_path / "monitors.jsonl").write_text(LINE)
    (row,) = read_monitors(tmp_path)
    assert row == MonitorRow(2, [106.1, 101.5], [[0.3133, 0.25], [0.31, 0.5]])
    (tmp_path / "monitors.jsonl").unlink()
    append_monitor(tmp_path, row)
    assert (tmp_path / "monitors.jsonl").read_text() == LINE


def test_a_step_that_was_repeated_counts_once(tmp_path: Path) -> None:
    for half_life in (1.0, 2.0):
        append_monitor(tmp_path, MonitorRow(4, [half_life], [[0.5]]))
    append_monitor(tmp_path, MonitorRow(2, [3.0], [[0.5]]))
    assert [(row.step, row.half_life_tokens) for row in read_monitors(tmp_path)] == [(2, [3.0]), (4, [2.0])]
