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


def test_a_fixed_number_is_the_default(recipe: Path) -> None:
    assert load_config(recipe).config.resources.worker_range == range(2, 3)
