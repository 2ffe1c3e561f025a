import pytest

from sisa_scale.training.waiting import TimedIterator


def test_items_pass_unchanged_and_waits_are_known() -> None:
    timed = TimedIterator(iter("abc"))
    assert timed.wait_seconds == 0
    assert next(timed) == "a"
    assert timed.wait_seconds >= 0
    assert list(timed) == ["b", "c"]
    with pytest.raises(StopIteration):
        next(timed)


def test_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError):
        next(TimedIterator(1 / x for x in (0,)))
