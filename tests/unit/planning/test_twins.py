from collections.abc import Sequence
from pathlib import Path

import pytest

from sisa_scale.errors import ConfigError
from sisa_scale.models.sizing import count_parameters
from sisa_scale.planning.twins import load_recipe, match_of
from sisa_scale.resources import resource_root

JAMBA = "{kind: jamba, position: none, jamba: {attention_every: 6, attention_offset: 3}, mamba2: {}}"
HYMBA = "{kind: hymba, hymba: {num_kv_heads: 3, num_meta_tokens: 128}}"
BLOCK = "{kind: transformer, num_kv_heads: 4, window_tokens: [512, null], output_gate: per_channel}"
MAMBA3 = "{kind: mamba3, qk_norm: false, num_layers: 12, mamba3: {}}"


def twin(directory: Path, model: str, *more: str, of: str = "sisa/152m") -> Path:
    path = directory / "twin.yaml"
    lines = ["extends: transformer/152m", "name: twin", f"twin_of: {of}", f"model: {model}", *more]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("match", ["parameters", "nonembedding_parameters", "flops"])
@pytest.mark.parametrize("model", [JAMBA, HYMBA, MAMBA3, BLOCK, "{kind: transformer}"])
def test_no_other_width_is_closer(tmp_path: Path, model: str, match: str) -> None:
    config = load_recipe(twin(tmp_path, model, f"match: {match}")).config
    assert config.model.d_ff % 32 == 0
    found = match_of(config)
    assert found is not None
    for d_ff in (config.model.d_ff - 32, config.model.d_ff + 32):
        other = match_of(load_recipe(tmp_path / "twin.yaml", (f"d_ff={d_ff}",)).config)
        assert other is not None
        assert abs(found.relative_difference) <= abs(other.relative_difference)
    assert abs(found.relative_difference) < 0.01


@pytest.mark.parametrize("folder", ["gated_deltanet", "hybrid"])
def test_shipped_twins_match_their_originals(folder: str) -> None:
    recipes = sorted(resource_root("recipes").glob(f"{folder}/*.yaml"))
    assert recipes
    for recipe in recipes:
        found = match_of(load_recipe(recipe).config)
        assert found is not None and abs(found.relative_difference) < 0.003, recipe


def test_width_beside_twin_of_stands(tmp_path: Path) -> None:
    path = twin(tmp_path, "{kind: transformer, d_ff: 96}")
    assert load_recipe(path).config.model.d_ff == 96


def test_a_resolved_twin_loads_to_itself(tmp_path: Path) -> None:
    from sisa_scale.config.loading.load import dump_yaml

    config = load_recipe(twin(tmp_path, JAMBA)).config
    (tmp_path / "config.yaml").write_text(dump_yaml(config))
    assert load_recipe(tmp_path / "config.yaml").config == config


def test_twin_of_a_transformer_is_the_shipped_sisa(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("extends: sisa/152m-ds16\nname: own\ntwin_of: transformer/152m")
    shipped = load_recipe("sisa/152m-ds16").config.model
    assert load_recipe(path).config.model == shipped
    assert count_parameters(shipped).total > 0


def test_impossible_twin_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="d_ff 32 gives"):
        load_recipe(twin(tmp_path, "{num_layers: 100}"))


def test_circles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "twin.yaml"
    twin(tmp_path, "{kind: transformer}", of=str(path))
    with pytest.raises(ConfigError, match="circle"):
        load_recipe(path)


def test_recipes_that_are_no_twins_are_left_alone() -> None:
    recipes: Sequence[Path] = sorted(resource_root("recipes").glob("sisa/*.yaml"))
    for recipe in recipes:
        loaded = load_recipe(recipe)
        assert match_of(loaded.config) is None
        assert loaded.config.model.d_ff > 0
