import json
import math
from pathlib import Path

from run_lines import step_row

from sisa_scale.runs.logs.metrics import (
    StepFeed,
    append_step,
    find_step,
    last_steps,
    read_steps,
    read_totals,
    taken_after,
)

LINE = (
    '{"step": 1, "tokens": 256, "loss": 5.7743717432022095, "learning_rate": 0.00075, "gradient_norm": 0.399823218584, '
    '"tokens_per_second": 2999.7, "step_seconds": 0.085343, "data_wait_seconds": 0.013842, "mfu": null, '
    '"peak_memory_bytes": null, "stream_digest": "1b52315c50b204b9", "attempt": 1, '
    '"time": "2026-11-29T05:31:57.272+00:00"}\n'
)


def write(run_dir: Path, *steps: int, **values: object) -> None:
    for step in steps:
        append_step(run_dir, step_row(step, **values))


def test_a_line_comes_back_to_the_last_byte(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(LINE)
    (row,) = read_steps(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    append_step(tmp_path, row)
    assert (tmp_path / "metrics.jsonl").read_text() == LINE


def test_what_is_not_finite_is_null_in_the_file(tmp_path: Path) -> None:
    write(tmp_path, 7, loss=math.inf, gradient_norm=math.nan, skipped=True)
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (line["loss"], line["gradient_norm"], line["skipped"]) == (None, None, True)
    (row,) = read_steps(tmp_path)
    assert math.isnan(row.loss)
    assert math.isnan(row.gradient_norm)
    assert row.skipped


def test_a_run_without_a_log_has_no_past(tmp_path: Path) -> None:
    assert last_steps(tmp_path, 5, 12) == []
    assert find_step(tmp_path, 1) is None
    assert taken_after(tmp_path, 0) == {}
    assert read_totals(tmp_path).step == 0


def test_the_last_steps_are_read_to_the_last_bit(tmp_path: Path) -> None:
    for step in range(1, 18):
        write(tmp_path, step, loss=step / 3)
    write(tmp_path, 18, loss=math.nan, skipped=True)
    write(tmp_path, 19)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 20, "lo')
    found = last_steps(tmp_path, 18, 12)
    assert [row.step for row in found] == list(range(7, 19))
    assert (found[0].loss, found[0].skipped) == (7 / 3, False)
    assert math.isnan(found[-1].loss)
    assert found[-1].skipped


def test_a_long_log_is_not_read_from_the_start(tmp_path: Path) -> None:
    text = "".join(json.dumps(step_row(step).to_json()) + "\n" for step in range(1, 5001))
    (tmp_path / "metrics.jsonl").write_text("not a line\n" + text)
    assert [row.step for row in last_steps(tmp_path, 5000, 12)] == list(range(4989, 5001))


def test_a_step_is_found_by_its_number_alone(tmp_path: Path) -> None:
    write(tmp_path, 1, 11, 21)
    found = find_step(tmp_path, 11)
    assert found is not None
    assert found.stream_digest == f"{11:016x}"
    assert find_step(tmp_path, 2) is None


def test_lost_work_is_counted_by_attempt(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    write(tmp_path, 4, attempt=2, step_seconds=0.25)
    assert taken_after(tmp_path, 1) == {1: (2, 1.0), 2: (1, 0.25)}


def test_totals_count_what_a_status_says(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, data_wait_seconds=0.1)
    write(tmp_path, 5, attempt=2, loss=math.nan, skipped=True)
    totals = read_totals(tmp_path)
    assert (totals.step, totals.tokens, totals.missing, totals.num_skipped) == (5, 1280, 2, 1)
    assert totals.seconds_by_attempt == {1: (1.0, 0.2), 2: (0.5, 0.0)}
    assert len(totals.warnings()) == 2


def test_the_newest_step_of_a_run_that_goes_on(tmp_path: Path) -> None:
    feed = StepFeed(tmp_path)
    assert feed.newest() is None
    write(tmp_path, 1, 2)
    newest = feed.newest()
    assert newest is not None
    assert newest.step == 2
    assert feed.newest() is None
    assert StepFeed(tmp_path).newest() is None  # of a run that is resumed
