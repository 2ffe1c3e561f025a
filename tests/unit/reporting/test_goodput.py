from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sisa_scale.reporting.goodput import CATEGORIES, ledger
from sisa_scale.runs.attempts import Attempt

START = datetime(2026, 3, 2, 9, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def event(kind: str, when: float, /, **fields: Any) -> dict[str, Any]:
    return {"event": kind, "time": at(when).isoformat(), **fields}


def attempt(number: int, started: float, resumed: float | None, ended: float | None, **more: Any) -> Attempt:
    seconds_of = {"started": started, "resumed": resumed, "ended": ended}
    times = {key: None if seconds is None else at(seconds) for key, seconds in seconds_of.items()}
    return Attempt(attempt=number, world_size=2, zero_stage=1, **(times | more))


def test_every_second_of_a_run_is_in_one_place() -> None:
    attempts = [
        attempt(1, 10, 15, 115, lost_seconds=20.0),
        attempt(2, 130, 140, 240),
        attempt(3, 1010, 1015, 1115),  # another command, long after
    ]
    steps = {1: (60.0, 6.0), 2: (80.0, 0.0), 3: (90.0, 0.0)}
    events = [
        event("launch", 0),
        event("checkpoint", 50, stall_seconds=3.0),
        event("evaluation", 60, seconds=7.0),
        event("checkpoint_failed", 200, stall_seconds=2.0),
        event("launch", 1000),
    ]
    book = ledger(attempts, steps, events, at(5000))
    assert book.seconds == pytest.approx(
        {
            "compute": 224,
            "data_wait": 6,
            "checkpoint": 5,
            "evaluation": 7,
            "profile": 0,
            "lost": 20,
            "restart": 55,
            "other": 38,
        }
    )
    assert sum(book.seconds.values()) == pytest.approx(240 + 115)  # and not the time between the commands
    assert sum(book.worker_hours.values()) == pytest.approx(2 * 355 / 3600)
    assert sum(book.shares.values()) == pytest.approx(1)


def test_an_attempt_that_never_restored_is_all_restart() -> None:
    book = ledger([attempt(1, 10, None, 40)], {}, [event("launch", 0)], at(100))
    assert book.seconds["restart"] == pytest.approx(40)
    assert sum(book.seconds.values()) == pytest.approx(40)


def test_an_open_attempt_lasts_until_now() -> None:
    book = ledger([attempt(1, 0, 10, None)], {1: (50.0, 0.0)}, [], at(100))
    assert book.seconds["other"] == pytest.approx(40)


def test_a_run_without_attempts_has_spent_nothing() -> None:
    assert ledger([], {}, [], at(0)).shares == dict.fromkeys(CATEGORIES, 0.0)


LIVES = st.lists(st.tuples(*[st.floats(0, 1e4)] * 4, st.booleans()), max_size=6)


@given(LIVES, st.floats(0, 1e4))
@example(lives=[(0.0, 0.0, 0.0, 1.0, False)], wait=0.0)
def test_nothing_is_negative_and_no_time_is_counted_twice(lives: list[Any], wait: float) -> None:
    attempts, steps, events, clock = [], {}, [], 0.0
    for number, (asleep, start, restore, work, is_new_command) in enumerate(lives, 1):
        clock += asleep
        if is_new_command or number == 1:
            events.append(event("launch", clock))
        began = clock + start
        end = began + restore + work
        attempts.append(attempt(number, began, began + restore, end, lost_seconds=work / 4))
        steps[number] = work / 2, min(wait, work / 2)
        clock = end
    book = ledger(attempts, steps, events, at(clock))
    assert all(seconds >= 0 for spent in book.attempts for seconds in spent.seconds.values())
    assert sum(book.seconds.values()) <= clock + 1e-3
