from pathlib import Path

import pytest

from sisa_scale.config import load_config
from sisa_scale.config.loading.load import dump_yaml
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError

MIX = """
extends: quickstart
data:
  path: null
  mix:
    web: {path: a, weight: 0.7}
    books: {path: b, weight: 3e-1, max_epochs: 2}
  stages:
    - {from: 1000 steps, weights: {web: 0.5, books: 0.5}}
    - from: 5M tokens
      weights: {web: 0, books: 1}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mix.yaml"
    path.write_text(MIX)
    return path


def load(recipe: Path, *overrides: str) -> RunConfig:
    return load_config(recipe, overrides).config


def test_a_mixture_loads_and_comes_back(recipe: Path, tmp_path: Path) -> None:
    data = load(recipe).data
    assert list(data.mix) == ["web", "books"]
    assert list(data.sources) == ["books", "web"]
    assert (data.mix["books"].path, data.mix["books"].weight, data.mix["books"].max_epochs) == ("b", 0.3, 2.0)
    assert [data.batches.steps(stage.start) for stage in data.stages] == [1000, 1220]
    assert data.stages[1].weights == {"web": 0.0, "books": 1.0}
    again = tmp_path / "again.yaml"
    again.write_text(dump_yaml(load(recipe)))
    assert load(again) == load(recipe)


def test_one_source_is_a_mixture_of_one() -> None:
    data = load_config("quickstart").config.data
    assert [(name, source.path, source.weight) for name, source in data.sources.items()] == [("data", data.path, 1.0)]
    assert data.at("elsewhere").sources["data"].path == "elsewhere"


def test_overrides_reach_into_a_source(recipe: Path) -> None:
    data = load(recipe, "data.mix.web.weight=7", "data.mix.books={path: c, weight: 1}", "data.stages=[]").data
    assert (data.mix["web"].weight, data.mix["web"].path) == (7.0, "a")
    assert (data.mix["books"].path, data.mix["books"].max_epochs) == ("c", 2.0)  # laid over, as in any section
    assert load_config(recipe, ["data.mix.web.weight=7"]).origins["data.mix.web.path"] == f"{recipe}:6"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.path=somewhere", "data.path: found both path and mix"),
        ("data.mix.web.weigh=3", "Did you mean 'weight'?"),
        ("data.mix.web=a", "data.mix.web: found 'a'; must be a section"),
        ("data.mix.web.weight=-1", "at least 0"),
        ("data.mix.books.max_epochs=0", "greater than 0"),
        ("data.mix.third.path=c", "data.mix.third.weight: found nothing"),
        ("data.mix.c={path: c, weight: 1}", "every stage has a weight for each source of data.mix: web, books, c"),
        ("data.stages=[{from: 10 steps}]", "must be a mapping such as {from: 1000 steps"),
        ("data.stages=[{from: 10, weights: {web: 1, books: 1}}]", "must be a duration with its unit"),
        ("data.stages=[{from: 10 steps, weights: {web: 1, book: 1}}]", "found weights for web, book"),
        ("data.stages=[{from: 10 steps, weights: {web: 0, books: 0}}]", "at least one weight is above 0"),
        ("data.stages=[{from: 0 steps, weights: {web: 1, books: 1}}]", "the first after step 0"),
        ("data.stages=[{from: 9 steps, weights: {web: -1, books: 1}}]", "numbers of at least 0, not web: -1"),
        ("data.mix={a b: {path: a, weight: 1}}", "letters, digits, _ and -"),
        ("data.mix={web: {path: '', weight: 1}}", "must name a data set"),
        ("data.mix=3", "must be a table of sections"),
    ],
)
def test_what_does_not_fit_is_refused(recipe: Path, override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(recipe, override)
    assert says in str(caught.value)


def test_one_of_path_and_mix_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"data\.path: found neither path nor mix"):
        load_config("quickstart", ["data.path=null"])
