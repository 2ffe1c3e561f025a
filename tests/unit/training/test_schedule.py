import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sisa_scale.config import load_config
from sisa_scale.config.batches import RampStage
from sisa_scale.config.duration import Duration
from sisa_scale.errors import ConfigError
from sisa_scale.training.schedule import LearningRateSchedule

PEAK = 3e-3
fractions = st.floats(0, 1)


QUICKSTART = load_config("quickstart", [f"learning_rate={PEAK}"]).config


def schedule(kind: str, total: int, warmup: int, decay: int = 0, final: float = 0.0) -> LearningRateSchedule:
    total_steps, warmup_steps, decay_steps = (Duration(count, "steps") for count in (total, warmup, decay))
    made = replace(
        QUICKSTART.schedule,
        kind=kind,
        total=total_steps,
        warmup=warmup_steps,
        decay=decay_steps,
        final_fraction=final,
    )
    return LearningRateSchedule(replace(QUICKSTART, schedule=made))


@st.composite
def lengths(draw: st.DrawFn) -> tuple[int, int, int]:
    total = draw(st.integers(1, 300))
    warmup = draw(st.integers(0, total))
    return total, warmup, draw(st.integers(0, total - warmup))


@settings(deadline=None)
@given(st.sampled_from(["wsd", "cosine", "linear", "inverse_sqrt"]), lengths(), fractions)
def test_the_rate_stays_between_nothing_and_the_peak(kind: str, steps: tuple[int, int, int], final: float) -> None:
    total, warmup, decay = steps
    rate = schedule(kind, total, warmup, decay, final).learning_rate
    rates = [rate(step) for step in range(total)]
    assert all(0 <= rate <= PEAK * (1 + 1e-12) for rate in rates)
    assert all(a >= b - 1e-12 for a, b in zip(rates[warmup:], rates[warmup + 1 :], strict=False))
    assert rates[:warmup] == pytest.approx([PEAK * (step + 1) / warmup for step in range(warmup)])


@settings(deadline=None)
@given(lengths(), fractions)
def test_wsd_is_stable_then_falls_in_a_line(steps: tuple[int, int, int], final: float) -> None:
    total, warmup, decay = steps
    rate = schedule("wsd", total, warmup, decay, final).learning_rate
    assert all(rate(step) == PEAK for step in range(warmup, total - decay))
    for step in range(decay):
        expected = PEAK * (1 - (1 - final) * step / decay)
        assert rate(total - decay + step) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["wsd", "cosine", "linear"])
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_the_end_is_near_the_final_fraction(kind: str, final: float) -> None:
    rate = schedule(kind, 1000, 100, 200, final).learning_rate
    assert rate(999) == pytest.approx(PEAK * final, abs=PEAK * 0.006)
    assert rate(1000) == rate(5000) == pytest.approx(PEAK * final)


def test_cosine_is_half_way_in_the_middle() -> None:
    rate = schedule("cosine", 1100, 100, 0, 0.2).learning_rate
    assert rate(100) == PEAK
    assert rate(600) == pytest.approx(PEAK * 0.6)


def test_linear_falls_in_a_line_to_nothing() -> None:
    rate = schedule("linear", 1100, 100).learning_rate
    assert rate(100) == PEAK
    assert [rate(step) for step in (350, 600, 850, 1100)] == pytest.approx([0.75 * PEAK, PEAK / 2, PEAK / 4, 0.0])


def test_inverse_sqrt_knows_no_end_but_that_of_its_decay() -> None:
    short, long = (schedule("inverse_sqrt", total, 100).learning_rate for total in (400, 40_000))
    assert [short(step) for step in range(400)] == [long(step) for step in range(400)]
    assert short(99) == PEAK
    assert [long(step) for step in (399, 899, 9999)] == pytest.approx([PEAK / 2, PEAK / 3, PEAK / 10])
    decayed = schedule("inverse_sqrt", 500, 100, 100, 0.1).learning_rate
    assert [decayed(step) for step in range(400)] == [short(step) for step in range(400)]
    level = math.sqrt(100 / 401)
    assert decayed(450) == pytest.approx(PEAK * (level + 0.1) / 2)
    assert decayed(500) == decayed(700) == pytest.approx(0.1 * PEAK)


def test_a_final_decay_must_fit() -> None:
    for kind in ("wsd", "inverse_sqrt"):
        with pytest.raises(ConfigError, match="of decay; together they must fit"):
            load_config("quickstart", [f"schedule.kind={kind}", "total=20 steps", "warmup=10 steps", "decay=11 steps"])
    load_config("quickstart", ["schedule.kind=linear", "total=20 steps", "warmup=10 steps", "decay=11 steps"])


def test_tokens_are_steps_of_the_batch() -> None:
    overrides = ["schedule.total=409_600 tokens", "warmup=40_960 tokens", "decay=0 steps", "global_batch_tokens=4096"]
    made = LearningRateSchedule(load_config("quickstart", overrides).config)
    assert (made.total_steps, made.warmup_steps, made.decay_steps) == (100, 10, 0)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(["wsd", "cosine", "linear", "inverse_sqrt"]), st.integers(1, 15), st.integers(0, 10))
def test_a_ramp_of_the_batch_does_not_bend_the_rate(kind: str, warmup: int, decay: int) -> None:
    plain = schedule(kind, total=40, warmup=warmup, decay=decay, final=0.1)
    size = QUICKSTART.data.global_batch_tokens
    ramp = tuple(RampStage(Duration(steps, "steps"), size // part) for steps, part in ((8, 4), (20, 2)))
    config = replace(QUICKSTART, data=replace(QUICKSTART.data, global_batch_ramp=ramp))
    total, warm, end = (Duration(steps * size, "tokens") for steps in (40, warmup, decay))
    made = replace(config.schedule, kind=kind, final_fraction=0.1, total=total, warmup=warm, decay=end)
    ramped = LearningRateSchedule(replace(config, schedule=made))
    tokens_before, compared = config.data.batches.tokens_before, 0
    assert ramped.total_steps == 20 + 32  # 8 steps of a quarter, 12 of a half
    for step in range(52):
        # The rate of a step is that of the tokens before it; while it rises with them, of those after it.
        is_at_end = (kind == "inverse_sqrt" and step < 52 - decay) or step < ramped.warmup_steps
        steps, rest = divmod(tokens_before(step + is_at_end), size)
        if not rest:
            assert ramped.learning_rate(step) == pytest.approx(plain.learning_rate(steps - is_at_end), rel=1e-12)
            compared += 1
    assert compared >= 38
