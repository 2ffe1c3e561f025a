from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sisa_scale.config.reliability import WatchdogConfig
from sisa_scale.runs.diagnostics import Heartbeat
from sisa_scale.training.health.hang_rules import bound_seconds, find_suspects

DEFAULTS = WatchdogConfig()
WAITING = Heartbeat(0, "a", 1, "step", 7, 60.0, "distributed_c10d.py:1 all_reduce", True, "now")


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=20))
def test_a_hang_is_noticed_within_twice_the_step_and_a_minute(seconds: list[float]) -> None:
    typical = sorted(seconds)[len(seconds) // 2]
    answer_and_tick_seconds = 6
    assert bound_seconds(DEFAULTS, "step", seconds) + answer_and_tick_seconds < 2 * typical + 60


@pytest.mark.parametrize(
    ("phase", "seconds", "expected"),
    [
        ("step", [], 1800),
        ("restore", [], 1800),
        ("step", [0.1, 0.2, 90], 50),
        ("data_wait", [40, 40], 80),
        ("save", [0.1], 300),
        ("evaluation", [400], 800),
    ],
)
def test_default_bounds(phase: str, seconds: list[float], expected: float) -> None:
    assert bound_seconds(DEFAULTS, phase, seconds) == expected


def test_a_silent_rank_is_to_blame() -> None:
    assert find_suspects({0: WAITING, 1: WAITING}, {1}) == ([1], "gave no sign of life")


def test_a_rank_behind_is_to_blame() -> None:
    beats = {0: WAITING, 1: replace(WAITING, step=6, phase="evaluation"), 2: WAITING}
    assert find_suspects(beats, set()) == ([1], "still at step 6 of 7")


def test_a_rank_outside_of_the_collective_is_to_blame() -> None:
    beats = {0: WAITING, 1: WAITING, 2: replace(WAITING, phase="data_wait", in_collective=False)}
    assert find_suspects(beats, set())[0] == [2]


def test_a_rank_in_another_phase_is_to_blame() -> None:
    beats = {0: WAITING, 1: WAITING, 2: replace(WAITING, phase="save")}
    assert find_suspects(beats, set()) == ([2], "in phase save while most are in step")


def test_without_a_difference_nobody_is_blamed() -> None:
    suspects, why = find_suspects({0: WAITING, 1: WAITING}, set())
    assert suspects == []
    assert "see their stacks" in why
