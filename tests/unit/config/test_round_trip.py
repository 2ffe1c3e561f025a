import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sisa_scale.config import RunConfig, load_config
from sisa_scale.config.duration import Duration
from sisa_scale.config.loading.load import config_from_plain, dump_yaml
from sisa_scale.config.run import config_hash, to_plain

words = st.text(st.characters(codec="ascii", categories=["L", "P", "Zs"]), max_size=12)
changes = st.fixed_dictionaries(
    {
        "description": words,
        "run_dir": st.none() | words,
        "seed": st.integers(0, 2**63),
    }
)
optimizers = st.fixed_dictionaries(
    {
        "learning_rate": st.floats(1e-12, 1e3),
        "epsilon": st.floats(1e-300, 1.0, exclude_min=True),
        "weight_decay": st.floats(0, 1e300),
    }
)
totals = st.builds(Duration, st.integers(512, 10**15), st.sampled_from(["steps", "tokens"]))
tasks = st.lists(st.sampled_from(["loss", "lambada", "needle-paper"])).map(tuple)


def reload(config: RunConfig, folder: Path) -> RunConfig:
    path = folder / "dumped.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    return load_config(path).config


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(changes, optimizers, totals, tasks)
def test_any_config_comes_back(base: Path, change: dict, optimizer: dict, total: Duration, task: tuple) -> None:
    config = load_config(base).config
    config = dataclasses.replace(
        config,
        **change,
        optimizer=dataclasses.replace(config.optimizer, **optimizer),
        schedule=dataclasses.replace(config.schedule, total=total),
        evaluation=dataclasses.replace(config.evaluation, tasks=task),
    )
    assert reload(config, base.parent) == config
    assert config_from_plain(to_plain(config), "here") == config
    assert config_from_plain(json.loads(json.dumps(to_plain(config))), "here") == config


def test_a_twin_without_the_section_comes_back(base: Path) -> None:
    config = load_config(base, ["model.kind=transformer", "model.sisa=null"]).config
    assert reload(config, base.parent) == config
    assert config_from_plain(to_plain(config), "here") == config


@pytest.mark.parametrize(
    "text", ["on", "no", "7", "007", "1_0", "null", "~", "", "true", "1:30", "0x1f", "2024-01-01", ".5"]
)
def test_text_that_looks_like_something_else_stays_text(base: Path, text: str) -> None:
    config = dataclasses.replace(load_config(base).config, description=text)
    assert reload(config, base.parent).description == text


@pytest.mark.parametrize("text", ["1e3", "3e-4", "1.5e3", "+.5", "._"])
def test_text_that_looks_like_a_float_stays_text(base: Path, text: str) -> None:
    config = dataclasses.replace(load_config(base).config, description=text)
    assert reload(config, base.parent).description == text


def test_the_hash_is_of_the_values_not_of_their_spelling(base: Path) -> None:
    config = load_config(base).config
    assert config_hash(config) == config_hash(load_config(base, ["learning_rate=0.001", "beta1=0.9"]).config)
    assert config_hash(config) != config_hash(load_config(base, ["learning_rate=0.002"]).config)
    # Runs are compared by it: a change is a change of the format.
    assert config_hash({"b": (1,), "a": None}) == "734c26e342c5f8c9b82c2170ad46833e063b43203b889b74f8862b1c82aaf6d5"
