import pytest

from sisa_scale.config import load_config
from sisa_scale.config.run import RunConfig


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    overrides = ["data.path=/data/x", "workers=1"]
    return load_config("quickstart", [*overrides, f"run_dir={tmp_path_factory.mktemp('runs')}/run"]).config
