from collections.abc import Callable
from pathlib import Path

import pytest

from sisa_scale.config import load_config
from sisa_scale.config.loading.yaml_source import read_settings
from sisa_scale.errors import ConfigError

Write = Callable[[str, str], Path]


def test_a_key_set_twice_names_both_lines(write: Write) -> None:
    path = write("own.yaml", "seed: 1\ndata:\n  path: a\n  seed: 1\n  path: b\n")
    with pytest.raises(ConfigError, match=r"own\.yaml:5: found data\.path again, first set on line 3"):
        read_settings(path)


def test_the_same_name_in_two_sections_is_two_keys(write: Write) -> None:
    assert set(read_settings(write("own.yaml", "seed: 1\ndata: {seed: 2}"))) == {"seed", "data.seed"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b", "own.yaml:1: found no mapping"),
        ("just text", "found no mapping"),
        ("a: [1", "unreadable YAML"),
        ("a: 1\n b: 2", "unreadable YAML"),
        ("a: 1\n---\nb: 2", "unreadable YAML"),
        ("a: \x07", "unreadable YAML"),
    ],
)
def test_broken_yaml_is_refused(write: Write, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(write("own.yaml", text))


def test_an_empty_recipe_sets_nothing(write: Write) -> None:
    assert read_settings(write("own.yaml", "# nothing\n")) == {}


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes("description: café".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"own\.yaml: found unreadable YAML"):
        read_settings(path)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.yaml", "deep/nowhere.yaml"])
def test_a_missing_recipe_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no such file") as caught:
        load_config(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unreadable"):
        load_config(tmp_path)


@pytest.mark.parametrize("value", ["!tag 3", "!!int x", "9" * 5000])
def test_values_that_cannot_be_built_are_refused(write: Write, value: str) -> None:
    with pytest.raises(ConfigError):
        read_settings(write("own.yaml", f"seed: {value}"))
