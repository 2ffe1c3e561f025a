from collections.abc import Callable
from pathlib import Path

import pytest

from sisa_scale.config import load_config
from sisa_scale.config.loading.yaml_source import read_settings
from sisa_scale.errors import ConfigError

Write = Callable[[str, str], Path]


def values(path: Path) -> dict[str, object]:
    return {key: setting.value for key, setting in read_settings(path).items()}


def test_what_is_nearest_wins(write: Write) -> None:
    write("far.yaml", "name: far\nseed: 1\ndata: {path: far}")
    write("near.yaml", "extends: far.yaml\nseed: 2\ndata: {path: near}")
    own = write("own.yaml", "seed: 3\nextends: near.yaml")
    assert values(own) == {"name": "far", "data.path": "near", "seed": 3}


def test_of_several_bases_the_last_wins(write: Write) -> None:
    write("a.yaml", "name: a\nseed: 1")
    write("b.yaml", "seed: 2\ndescription: b")
    own = write("own.yaml", "extends: [a.yaml, b.yaml]\ndescription: own")
    assert values(own) == {"name": "a", "seed": 2, "description": "own"}


def test_bases_are_found_beside_the_recipe(write: Write) -> None:
    write("base/a.yaml", "extends: b.yaml\nseed: 1")
    write("base/b.yaml", "name: b")
    assert values(write("deep/own.yaml", "extends: ../base/a.yaml")) == {"name": "b", "seed": 1}


@pytest.mark.parametrize("ring", [1, 2, 3])
def test_circles_are_refused(write: Write, ring: int) -> None:
    paths = [write(f"{i}.yaml", f"extends: {(i + 1) % ring}.yaml") for i in range(ring)]
    with pytest.raises(ConfigError, match="circle"):
        read_settings(paths[0])


def test_a_common_base_is_no_circle(write: Write) -> None:
    write("base.yaml", "name: base")
    write("a.yaml", "extends: base.yaml\nseed: 1")
    write("b.yaml", "extends: base.yaml\ndescription: b")
    assert values(write("own.yaml", "extends: [a.yaml, b.yaml]")) == {"name": "base", "seed": 1, "description": "b"}


def test_a_missing_base_is_named(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: found no such file"):
        read_settings(write("own.yaml", "extends: nowhere.yaml"))


def test_null_clears_a_section(base: Path, write: Write) -> None:
    twin = write("twin.yaml", "extends: base.yaml\nmodel: {kind: transformer, sisa: null}")
    assert load_config(twin).config.model.sisa is None
    back = write("back.yaml", "extends: twin.yaml\nmodel: {kind: sisa, sisa: {d_s: 32, decay_bias_init: -7}}")
    sisa = load_config(back).config.model.sisa
    assert sisa is not None
    assert (sisa.d_s, sisa.decay_bias_init, sisa.lambda_raw_init) == (32, -7, -1)


def test_a_section_that_is_needed_cannot_be_cleared(base: Path) -> None:
    with pytest.raises(ConfigError, match="must be a section"):
        load_config(base, ["data=null"])


def test_every_value_knows_where_it_was_set(base: Path, write: Write) -> None:
    own = write("own.yaml", "extends: base.yaml\n\ndata:\n  path: elsewhere\n")
    origins = load_config(own, ["zero_stage=2"]).origins
    assert origins["data.path"] == f"{own}:4"
    assert origins["model.sisa.d_s"] == f"{base}:11"
    assert origins["evaluation.needle_lengths"] == f"{base}:25"
    assert origins["execution.zero_stage"] == "override 'zero_stage=2'"
    assert origins["optimizer.beta1"] == "default"


def test_a_shipped_recipe_needs_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart") == load_config("recipes/quickstart.yaml")


def test_a_file_of_the_users_own_wins_over_a_shipped_one(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base.parent)
    base.rename("quickstart")
    assert load_config("quickstart").config.name == "small"


def test_a_shipped_recipe_can_be_extended_by_name(write: Write) -> None:
    assert load_config(write("own.yaml", "extends: quickstart\nname: mine")).config.name == "mine"
