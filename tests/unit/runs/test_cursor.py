from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sisa_scale.runs.cursor import (
    DataCursor,
    add_rollback,
    read_cursor,
    read_rollbacks,
    settle_rollbacks,
)


@given(st.sets(st.integers(0, 60), max_size=12))
def test_steps_read_what_is_left_in_order(left_out: set[int]) -> None:
    cursor = DataCursor(left_out)
    kept = [data_step for data_step in range(100) if data_step not in left_out]
    found = [cursor.data_step(step) for step in range(len(kept))]
    assert found == kept
    assert [cursor.step(data_step) for data_step in kept] == list(range(len(kept)))


@given(st.integers(1, 30), st.sets(st.integers(0, 60), max_size=6), st.sets(st.integers(0, 60), max_size=6))
def test_a_later_rollback_leaves_the_past_as_it_was(to_step: int, before: set[int], bad: set[int]) -> None:
    cursor = DataCursor(before)
    # What a second rollback leaves out was read by steps after the one that it goes back to.
    again = {cursor.data_step(step) for step in range(to_step, 90) if cursor.data_step(step) in bad}
    after = DataCursor(before | again)
    assert [after.data_step(step) for step in range(to_step)] == [cursor.data_step(step) for step in range(to_step)]


def test_without_rollbacks_data_is_read_by_step(tmp_path: Path) -> None:
    assert read_rollbacks(tmp_path) == []
    assert read_cursor(tmp_path).data_step(7) == 7


def test_only_data_that_is_read_again_is_left_out(tmp_path: Path) -> None:
    add_rollback(tmp_path, 12, "bad", [(6, 5), (11, 10), (12, 11)], leave_out=True, attempt=1)
    assert read_cursor(tmp_path).left_out == []
    settle_rollbacks(tmp_path, 8)  # a checkpoint of step 8 has step 6 behind it
    assert read_cursor(tmp_path).left_out == [10, 11]
    settle_rollbacks(tmp_path, 20)
    settle_rollbacks(tmp_path, 5)
    assert read_cursor(tmp_path).left_out == [10, 11]
    assert read_rollbacks(tmp_path)[0]["to_step"] == 8


def test_a_retry_leaves_nothing_out(tmp_path: Path) -> None:
    add_rollback(tmp_path, 12, "bad", [(12, 11)], leave_out=False, attempt=1)
    settle_rollbacks(tmp_path, 8)
    assert read_cursor(tmp_path).left_out == []
    assert read_rollbacks(tmp_path)[0]["to_step"] == 8
