import math
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sisa_scale.config.reliability import GuardConfig
from sisa_scale.training.health.guard import NumericalGuard, PastStep

FINITE = st.floats(0.01, 100)
BROKEN = st.sampled_from([math.nan, math.inf, -math.inf])


def guard(warmup_steps: int = 0, **settings: object) -> NumericalGuard:
    return NumericalGuard(GuardConfig(**settings), warmup_steps)


def accepted(losses: list[float], first: int = 1) -> list[PastStep]:
    return [PastStep(first + index, loss, 1.0, False) for index, loss in enumerate(losses)]


@given(BROKEN, FINITE, st.booleans())
def test_what_is_not_finite_is_refused_even_in_the_warmup(broken: float, other: float, is_loss: bool) -> None:
    refusal = guard(warmup_steps=10).judge(1, *((broken, other) if is_loss else (other, broken)))
    assert refusal is not None
    assert (refusal.measure, refusal.threshold) == ("loss" if is_loss else "gradient_norm", None)
    assert "is not finite" in str(refusal)


@given(st.lists(FINITE, max_size=40), st.floats(0, 1e30), st.floats(0, 1e30))
def test_finite_steps_are_all_taken_by_default(past: list[float], loss: float, norm: float) -> None:
    judge = guard()
    judge.remember(accepted(past))
    assert judge.judge(1000, loss, norm) is None


@given(st.lists(FINITE, min_size=8, max_size=30), st.floats(1, 20), st.floats(0, 200))
def test_spikes_are_above_the_median_by_robust_deviations(past: list[float], k: float, loss: float) -> None:
    judge = guard(spike_deviations=k, spike_window_steps=8)
    judge.remember(accepted(past))
    last = past[-8:]
    deviation = 1.4826 * median(abs(value - median(last)) for value in last)
    threshold = median(last) + k * max(deviation, 0.01 * median(last))
    refusal = judge.judge(1000, loss, 1.0)
    assert (refusal is not None) == (loss > threshold)
    if refusal is not None:
        assert refusal.threshold == pytest.approx(threshold)


def test_a_gradient_may_spike_alone() -> None:
    judge = guard(spike_deviations=5, spike_window_steps=8)
    judge.remember(PastStep(step, 2.0, 1.0 + step / 100, False) for step in range(1, 9))
    assert judge.judge(9, 2.0, 1.15) is None
    refusal = judge.judge(9, 2.0, 9.0)
    assert refusal is not None
    assert str(refusal).startswith("gradient_norm 9 is above 1.")


def test_no_spike_in_the_warmup_nor_before_the_window_is_full() -> None:
    judge = guard(warmup_steps=20, spike_deviations=5, spike_window_steps=8)
    judge.remember(accepted([1.0] * 20))
    assert judge.judge(20, 100.0, 1.0) is None
    assert judge.judge(21, 100.0, 1.0) is not None
    young = guard(spike_deviations=5, spike_window_steps=8)
    young.remember(accepted([1.0] * 7))
    assert young.judge(8, 100.0, 1.0) is None


def test_a_skipped_step_does_not_move_the_threshold() -> None:
    judge = guard(spike_deviations=5, spike_window_steps=8)
    judge.remember(accepted([1.0] * 8))
    before = judge.threshold(9, "loss")
    judge.remember([PastStep(9, 1e9, math.nan, True), PastStep(10, None, None, True)])
    assert judge.threshold(11, "loss") == before


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 4), st.integers(0, 6), st.integers(1, 20))
def test_bounds_count_in_a_row_and_in_the_window(skipped: list[bool], in_a_row: int, most: int, window: int) -> None:
    judge = guard(max_skipped_in_a_row=in_a_row, max_skipped=most, window_steps=window)
    for step, was_skipped in enumerate(skipped, start=1):
        judge.remember([PastStep(step, 1.0, 1.0, was_skipped)])
        streak = next((back for back, one in enumerate(reversed(skipped[:step])) if not one), step)
        recent = sum(skipped[max(0, step - window) : step])
        assert (judge.exhausted(step) is not None) == (streak > in_a_row or recent > most)


@given(st.lists(st.tuples(FINITE, FINITE, st.booleans()), min_size=1, max_size=60), st.integers(0, 60))
def test_a_guard_that_is_told_of_the_past_judges_as_one_that_saw_it(
    steps: list[tuple[float, float, bool]], cut: int
) -> None:
    past = [PastStep(number, *values) for number, values in enumerate(steps, start=1)]
    settings = {"spike_deviations": 3.0, "spike_window_steps": 8, "window_steps": 10, "max_skipped": 2}
    whole, resumed = guard(**settings), guard(**settings)
    for one in past:
        whole.remember([one])
        whole.exhausted(one.step)
    resumed.remember(past[:cut])
    resumed.remember(past[cut:])
    assert resumed.threshold(100, "loss") == whole.threshold(100, "loss")
    assert resumed.exhausted(len(past)) == whole.exhausted(len(past))
