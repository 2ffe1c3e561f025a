import pytest
import torch

from sisa_scale.config import load_config
from sisa_scale.models.decoder import Decoder
from sisa_scale.models.sizing import count_parameters
from sisa_scale.resources import resource_root

ROOT = resource_root("recipes")
RECIPES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*.yaml")
    if path.relative_to(ROOT).parts[0] not in ("base", "studies")
)


def test_there_are_recipes() -> None:
    assert "quickstart.yaml" in RECIPES
    assert len(RECIPES) > 10


@pytest.mark.parametrize("recipe", RECIPES)
def test_shipped_recipes_build_as_counted(recipe: str) -> None:
    config = load_config(recipe).config
    with torch.device("meta"):
        model = Decoder(config.model, config.execution, "math")
    assert sum(p.numel() for p in model.parameters()) == count_parameters(config.model).total


def test_no_two_recipes_share_a_name() -> None:
    by_name: dict[str, set[str]] = {}
    for recipe in RECIPES:
        by_name.setdefault(load_config(recipe).config.name, set()).add(recipe)
    assert {name: paths for name, paths in by_name.items() if len(paths) > 1} == {}
