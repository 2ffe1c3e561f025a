"""The recipe of a run directory. A run belongs to the directory it lies in, wherever it was begun."""

from collections.abc import Iterable
from pathlib import Path

from sisa_scale.config.loading.load import parse_override, resolve
from sisa_scale.config.loading.yaml_source import Setting, merge, read_settings
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError
from sisa_scale.runs.layout import JOBS, config_path, holds_run


def read_recipe(run_dir: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Return the resolved recipe of a run, with `key=value` overrides; `run_dir` is where it lies.

    Recorded paths inside the directory move with it. Raises ConfigError where there is no run.
    """
    settings = own_settings(run_dir)
    for override in overrides:
        merge(settings, parse_override(override))
    settings["run_dir"] = Setting(str(run_dir), str(run_dir))
    return resolve(settings).config


def own_settings(run_dir: Path) -> dict[str, Setting]:
    """Return the recorded settings of a run; paths inside the directory it was begun in are those inside this one.

    Raises ConfigError where there is no run.
    """
    if not holds_run(run_dir):
        is_submitted = (run_dir / JOBS).is_dir()
        raise ConfigError.at(
            run_dir,
            found="a submitted run that has not begun" if is_submitted else "no run",
            allowed="the directory of a run that has begun",
            remedy=f"`sisa-scale logs {run_dir}` says what its job does." if is_submitted else "Check the path.",
        )
    settings = read_settings(config_path(run_dir))
    before = _recorded_directory(settings)
    if before is None or before == run_dir.resolve():
        return settings
    return {key: _moved(setting, before, run_dir) for key, setting in settings.items()}


def original_of(run_dir: Path) -> Path | None:
    """Return the run that this one is a copy of: it lies where this one was recorded; None for a run that was moved."""
    recorded = _recorded_directory(read_settings(config_path(run_dir)))
    is_copy = recorded is not None and recorded != run_dir.resolve() and holds_run(recorded)
    return recorded if is_copy else None


def _recorded_directory(settings: dict[str, Setting]) -> Path | None:
    recorded = settings.get("run_dir")
    is_known = recorded is not None and isinstance(recorded.value, str) and Path(recorded.value).is_absolute()
    return Path(recorded.value) if recorded is not None and is_known else None


def _moved(setting: Setting, before: Path, run_dir: Path) -> Setting:
    """Return a setting with a path inside the directory it was recorded in as one inside `run_dir`."""
    if not isinstance(setting.value, str) or not setting.value.startswith(f"{before}/"):
        return setting
    return Setting(str(run_dir.resolve() / Path(setting.value).relative_to(before)), setting.origin)
