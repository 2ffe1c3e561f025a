from pathlib import Path

import pytest

from sisa_scale.config import RunConfig, load_config
from sisa_scale.errors import ConfigError


def load(base: Path, *overrides: str) -> RunConfig:
    return load_config(base, overrides).config


def test_overrides_win_and_the_last_most_of_all(base: Path) -> None:
    assert load(base, "learning_rate=2e-3", "optimizer.learning_rate=3e-3").optimizer.learning_rate == 3e-3


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("zero_stage=2", lambda c: c.execution.zero_stage == 2),
        ("sisa.d_s=32", lambda c: c.model.sisa.d_s == 32),
        ("d_s=32", lambda c: c.model.sisa.d_s == 32),
        ("needle_lengths=[40, 48]", lambda c: c.evaluation.needle_lengths == (40, 48)),
        ("schedule.total=5e9 tokens", lambda c: c.total_steps == 5 * 10**9 // 512),
        ("run_dir=null", lambda c: c.run_dir is None),
        ("description=a = b", lambda c: c.description == "a = b"),
        (" seed =7", lambda c: c.seed == 7),
    ],
)
def test_any_unique_ending_of_a_key_will_do(base: Path, override: str, read: object) -> None:
    assert callable(read)
    assert read(load(base, override))


def test_the_root_wins_over_a_section(base: Path) -> None:
    config = load(base, "seed=7")
    assert (config.seed, config.data.seed) == (7, 0)
    assert load(base, "data.seed=7").data.seed == 7


@pytest.mark.parametrize(
    ("override", "keys"),
    [
        ("every_steps=5", "checkpoint.every_steps, evaluation.every_steps"),
        ("kind=cosine", "model.kind, optimizer.kind, schedule.kind"),
    ],
)
def test_short_for_two_is_refused_with_both(base: Path, override: str, keys: str) -> None:
    with pytest.raises(ConfigError, match=keys):
        load(base, override)


def test_null_and_back_in_one_command(base: Path) -> None:
    assert load(base, "model.kind=transformer", "model.sisa=null").model.sisa is None
    config = load(base, "model.sisa=null", "d_s=4", "decay_bias_init=-6")
    assert config.model.sisa is not None
    assert config.model.sisa.d_s == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "key=value"),
        ("seed=[1", "unreadable YAML"),
        ("zero_stag=1", r"override 'zero_stag=1' .*Did you mean 'execution.zero_stage'"),
        ("execution.zero_stag=1", "Did you mean 'zero_stage'"),
        ("model.sisa.ds=1", "section model.sisa has no 'ds'.*Did you mean 'd_s'"),
        ("model.sisa.d_s.x=1", "must be a single value"),
        ("=1", "unknown key"),
    ],
)
def test_broken_overrides_say_so(base: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(base, override)
