"""A run belongs to the directory it lies in, wherever it was begun."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sisa_scale.checkpoint.store import store_in
from sisa_scale.config import load_config
from sisa_scale.config.loading.load import dump_yaml
from sisa_scale.errors import ConfigError
from sisa_scale.runs.layout import JOBS
from sisa_scale.runs.recipe import original_of, read_recipe


@pytest.fixture
def run_dir(tmp_path: Path, write_recipe: Callable[[Path], Path]) -> Path:
    run_dir = tmp_path / "begun"
    run_dir.mkdir()
    inside = [f"run_dir={run_dir}", f"checkpoint.directory={run_dir}/kept", f"begin_from={tmp_path}/begun-before"]
    config = load_config(write_recipe(tmp_path), inside).config
    (run_dir / "config.yaml").write_text(dump_yaml(config))
    return run_dir


def test_a_moved_run_takes_its_own_paths_with_it_and_no_others(run_dir: Path, tmp_path: Path) -> None:
    moved = run_dir.rename(tmp_path / "moved")
    config = read_recipe(moved, ["learning_rate=1e-4", "run_dir=elsewhere"])
    assert config.directory == moved
    assert config.checkpoint.directory == f"{moved}/kept"
    assert config.begin_from == f"{tmp_path}/begun-before"
    assert config.optimizer.learning_rate == 1e-4
    assert store_in(moved).place.location("") == moved / "kept"
    assert original_of(moved) is None


def test_a_copy_knows_its_original(run_dir: Path, tmp_path: Path) -> None:
    assert original_of(run_dir) is None
    shutil.copytree(run_dir, tmp_path / "copy")
    assert original_of(tmp_path / "copy") == run_dir
    assert read_recipe(tmp_path / "copy").directory == tmp_path / "copy"


def test_where_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        read_recipe(tmp_path)


def test_a_directory_without_a_run_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found no run;"):
        read_recipe(tmp_path)
    (tmp_path / JOBS).mkdir()
    with pytest.raises(ConfigError, match=r"submitted run that has not begun.*sisa-scale logs"):
        read_recipe(tmp_path)
