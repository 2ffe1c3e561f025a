from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sisa_scale.config import RunConfig, load_config
from sisa_scale.errors import ConfigError


def config(workers: int, min_workers: int | None, sequences: int, micro_batch: int = 1) -> RunConfig:
    overrides = [f"workers={workers}", f"data.global_batch_tokens={sequences * 256}", "data.sequence_tokens=256"]
    overrides += [f"execution.micro_batch_sequences={micro_batch}"]
    overrides += [] if min_workers is None else [f"min_workers={min_workers}"]
    return load_config("quickstart", overrides).config


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 60), st.integers(1, 3))
def test_a_batch_divides_over_every_number_of_workers_or_is_refused(
    workers: int, min_workers: int, sequences: int, micro_batch: int
) -> None:
    sizes = range(min_workers, workers + 1)
    if sizes and all(sequences % (size * micro_batch) == 0 for size in sizes):
        run = config(workers, min_workers, sequences, micro_batch)
        for size in sizes:
            attempt = run.with_workers(size)
            assert attempt.accumulation_steps * size * micro_batch == sequences
            assert list(attempt.resources.worker_range) == [size]
    else:
        with pytest.raises(ConfigError):
            config(workers, min_workers, sequences, micro_batch)


def test_the_error_names_a_batch_that_fits() -> None:
    with pytest.raises(ConfigError, match=r"must divide over 2 to 4 workers.*nearest global_batch_tokens is 6144"):
        config(4, 2, 16, 2)
    assert config(4, 2, 24, 2).resources.worker_range == range(2, 5)
    with pytest.raises(ConfigError, match="must be at most workers 2"):
        config(2, 3, 12)


def shared(size: int, *overrides: str, recipe: str = "sisa/152m-ds16") -> RunConfig:
    settings = [f"sequence_parallel_size={size}", "global_batch_tokens=131072", "workers=4", *overrides]
    return load_config(recipe, settings).config


def test_workers_that_share_sequences_take_more_micro_steps() -> None:
    assert [shared(size).accumulation_steps for size in (1, 2, 4)] == [1, 2, 4]


@pytest.mark.parametrize(
    ("size", "overrides", "said"),
    [
        (2, ["workers=3"], "2 with resources.workers 3"),
        (8, ["workers=8"], "8 with model.num_heads 12"),
        (4, ["sequence_tokens=1022", "global_batch_tokens=65408"], "4 with data.sequence_tokens 1022"),
        (2, ["min_workers=2"], "resources.min_workers: found 2 with execution.sequence_parallel_size 2"),
        (4, ["global_batch_tokens=81920"], "4 workers / 4 that share a sequence x 16 micro_batch_sequences"),
    ],
)
def test_what_cannot_be_shared_is_refused(size: int, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        shared(size, *overrides)
    assert said in str(caught.value)


def test_heads_of_state_spaces_are_shared_too() -> None:
    assert shared(4, recipe="mamba2/152m").execution.sequence_parallel_size == 4
    with pytest.raises(ConfigError, match=r"with heads of model.mamba2: 24"):
        shared(16, "workers=16", "micro_batch_sequences=1", recipe="mamba2/152m")
    assert shared(4, recipe="hymba/152m").execution.sequence_parallel_size == 4
    with pytest.raises(ConfigError, match=r"with heads of model.hymba.s SSM path: 24"):
        shared(16, "workers=16", "micro_batch_sequences=1", recipe="hymba/152m")


def test_a_fixed_number_is_the_default(recipe: Path) -> None:
    assert load_config(recipe).config.resources.worker_range == range(2, 3)
