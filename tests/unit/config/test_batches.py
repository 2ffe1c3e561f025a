from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sisa_scale.config import load_config
from sisa_scale.config.batches import GlobalBatches, RampStage
from sisa_scale.config.duration import Duration
from sisa_scale.errors import ConfigError

LENGTH, STEPS = 4, 160
SIZES = ["sequence_tokens=256", "global_batch_tokens=8192"]


@st.composite
def ramps(draw: st.DrawFn) -> tuple[GlobalBatches, list[int]]:
    """Batches that grow, and the tokens of each as a counter that takes one step at a time finds them."""
    sizes = sorted(LENGTH * size for size in draw(st.sets(st.integers(1, 30), min_size=1, max_size=4)))
    stages, tokens = [], []
    for size in sizes[:-1]:
        num_steps = draw(st.integers(1, 9))
        tokens += [size] * num_steps
        spare = draw(st.integers(0, size - 1))  # of which no step can be made
        until = draw(st.sampled_from([Duration(len(tokens), "steps"), Duration(sum(tokens) + spare, "tokens")]))
        stages.append(RampStage(until, size))
    batches = GlobalBatches(LENGTH, sizes[-1], stages)
    return batches, tokens + [sizes[-1]] * (STEPS - len(tokens))


@settings(deadline=None)
@given(ramps())
def test_every_step_follows_the_ones_before(ramp: tuple[GlobalBatches, list[int]]) -> None:
    batches, tokens = ramp
    before = [0, *accumulate(tokens)]
    assert [batches.tokens(step) for step in range(STEPS)] == tokens
    assert [batches.tokens_before(step) for step in range(STEPS + 1)] == before
    positions = [place for step in range(STEPS) for place in batches.positions(step)]
    assert positions == list(range(before[-1] // LENGTH))


@settings(deadline=None)
@given(ramps(), st.integers(0, 150))
def test_tokens_give_whole_steps_and_no_more(ramp: tuple[GlobalBatches, list[int]], count: int) -> None:
    batches, tokens = ramp
    before = [0, *accumulate(tokens)]
    steps = batches.steps(Duration(count, "tokens"))
    assert steps == max(step for step in range(STEPS) if before[step] <= count)
    assert batches.steps(Duration(count, "steps")) == count
    nearest = batches.nearest_steps(count)
    assert abs(before[nearest] - count) == min(abs(total - count) for total in before)


@settings(deadline=None)
@given(ramps(), st.integers(0, STEPS), st.integers(0, 2000))
def test_final_steps_are_counted_from_the_end(ramp: tuple[GlobalBatches, list[int]], total: int, count: int) -> None:
    batches, tokens = ramp
    found = batches.final_steps(Duration(count, "tokens"), total)
    if found <= total:
        assert sum(tokens[total - found : total]) <= count
    if found < total:
        assert sum(tokens[total - found - 1 : total]) > count
    assert batches.final_steps(Duration(count, "steps"), total) == count


@settings(deadline=None)
@given(st.integers(0, 10**15), st.integers(1, 10**7), st.integers(0, 10**6))
def test_without_a_ramp_all_steps_are_alike(count: int, size: int, step: int) -> None:
    batches = GlobalBatches(1, size)
    assert batches.positions(step) == range(step * size, (step + 1) * size)
    assert batches.steps(Duration(count, "tokens")) == count // size
    assert batches.final_steps(Duration(count, "tokens"), step) == count // size
    assert batches.nearest_steps(float(count)) == round(float(count) / size)


def refused(*ramp: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config("quickstart", [*SIZES, f"global_batch_ramp=[{', '.join(ramp)}]"])
    return str(error.value)


def test_a_ramp_that_is_none_is_refused() -> None:
    assert "a mapping such as {until: 1B tokens" in refused("4096")
    assert "a whole number of tokens, not 0.5" in refused("{until: 5 steps, global_batch_tokens: 0.5}")
    assert "every batch is larger than the one before" in refused("{until: 5 steps, global_batch_tokens: 8192}")
    falling = refused("{until: 5 steps, global_batch_tokens: 2048}", "{until: 12000 tokens, global_batch_tokens: 4096}")
    assert "stages until the steps 5, 5;" in falling


def test_every_stage_divides_over_the_workers() -> None:
    words = refused("{until: 5 steps, global_batch_tokens: 4100}")
    assert "global_batch_ramp: found 4100 until 5 steps" in words
    assert "The nearest is 4096." in words
    with pytest.raises(ConfigError) as error:
        stages = "[{until: 5 steps, global_batch_tokens: 1024}]"
        sizes = [*SIZES, "micro_batch_sequences=4", "resources.workers=2"]
        load_config("quickstart", [*sizes, f"global_batch_ramp={stages}"])
    assert "found 1024 until 5 steps (4 sequences)" in str(error.value)
    assert "the nearest global_batch_tokens is 2048" in str(error.value)


def test_lengths_mean_whole_steps_of_the_ramp() -> None:
    stages = "{until: 10 steps, global_batch_tokens: 2048}, {until: 61440 tokens, global_batch_tokens: 4096}"
    lengths = ["total=150000 tokens", "warmup=20480 tokens", "decay=1 steps", "micro_batch_sequences=2"]
    config = load_config("quickstart", [*SIZES, *lengths, f"global_batch_ramp=[{stages}]"]).config
    assert config.data.batches.first_steps == [0, 10, 20]
    assert config.data.batches.steps(config.schedule.warmup) == 10
    assert (config.total_steps, config.total_tokens) == (30, 61440 + 10 * 8192)
