"""Turning a config into a run directory: everything that can fail early fails here, before Ray starts."""

import dataclasses
import os
from pathlib import Path

from sisa_scale.checkpoint.store import CheckpointStore, find_checkpoint, store_in
from sisa_scale.config import load_config
from sisa_scale.config.data import DataConfig
from sisa_scale.config.loading.extension import check_begins
from sisa_scale.config.run import RunConfig
from sisa_scale.data.read.sources import load_manifests
from sisa_scale.data.read.storage import absolute_location
from sisa_scale.data.read.stream import TokenStream
from sisa_scale.errors import CheckpointError, ConfigError
from sisa_scale.evaluation.fetch import lambada_file
from sisa_scale.evaluation.resources import check_vocabulary
from sisa_scale.planning.twins import load_recipe
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.layout import config_path
from sisa_scale.training.record import record
from sisa_scale.training.resume_rules import check_resumable


def begin(config: RunConfig) -> RunConfig:
    """Claim the run directory of a new run; returns the config with absolute paths, as workers need it."""
    config = with_absolute_paths(config)
    fingerprint = check_inputs(config)
    directory = RunDirectory(config.directory)
    _check_empty(config)
    directory.create()
    record(directory, config, fingerprint)
    return config


def reopen(run_dir: Path, overrides: tuple[str, ...]) -> RunConfig:
    """Load the config of a run with overrides, and check that it still is the same run.

    Raises CheckpointError when there is no run, or when its model, data or seed would change.
    """
    directory = RunDirectory(run_dir)
    if not directory.config_path.exists():
        raise CheckpointError.at(
            run_dir,
            found="no run",
            allowed="the run directory of an earlier `sisa-scale train`",
            remedy="Check the path, or begin a run with `sisa-scale train`.",
        )
    config = load_config(directory.config_path, [*overrides, f"run_dir={run_dir}"]).config
    config = with_absolute_paths(config)
    fingerprint = check_inputs(config)
    newest = CheckpointStore(run_dir, config.checkpoint.directory).newest_readable()
    if newest is not None:
        check_resumable(*newest, config, fingerprint)
    elif store_in(run_dir).steps():
        raise ConfigError.at(
            "checkpoint.directory",
            found=f"{config.checkpoint.directory}, which holds no checkpoint",
            allowed=f"the run has checkpoints at {store_in(run_dir).place.location('')}",
            remedy="Copy them to the new place first, or leave the setting as it was.",
        )
    record(directory, config, fingerprint)
    return config


def join_run(recipe_or_run_dir: str, overrides: tuple[str, ...], *, is_main: bool) -> RunConfig:
    """Return the config of a worker that torchrun started, of a new run or of one to continue.

    is_main: this worker also claims the run directory, or checks it. Restarted, it continues what its recipe began.
    """
    path = Path(recipe_or_run_dir)
    recipe = config_path(path) if path.is_dir() else recipe_or_run_dir
    config = with_absolute_paths(load_recipe(recipe, overrides).config)
    was_restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if not is_main:
        return config
    if path.is_dir():
        reopen(path, overrides)
    elif not was_restarted or not RunDirectory(config.directory).config_path.exists():
        begin(config)
    return config


def _check_empty(config: RunConfig) -> None:
    """Check that no other run keeps its checkpoints where a new run is to have its own."""
    directory = config.checkpoint.directory
    if directory is not None and CheckpointStore(config.directory, directory).steps():
        raise ConfigError.at(
            "checkpoint.directory",
            found=f"{directory}, which holds checkpoints",
            allowed="it holds those of one run alone",
            remedy="Choose another, or continue that run with `sisa-scale resume`.",
        )


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return the config with paths that mean the same in every process."""
    lambada, directory = config.evaluation.lambada_path, config.checkpoint.directory
    questions = config.evaluation.questions_directory
    evaluation = dataclasses.replace(
        config.evaluation,
        lambada_path=str(lambada_file(lambada).resolve()) if lambada else None,
        questions_directory=str(Path(questions).resolve()) if questions else None,
    )
    return dataclasses.replace(
        config,
        run_dir=str(config.directory.resolve()),
        begin_from=absolute_location(config.begin_from) if config.begin_from else None,
        data=_with_absolute_locations(config.data),
        checkpoint=dataclasses.replace(
            config.checkpoint, directory=absolute_location(directory) if directory is not None else None
        ),
        evaluation=evaluation,
    )


def _with_absolute_locations(data: DataConfig) -> DataConfig:
    return dataclasses.replace(
        data,
        path=absolute_location(data.path) if data.path else None,
        mix={name: dataclasses.replace(s, path=absolute_location(s.path)) for name, s in data.mix.items()},
        cache_directory=str(Path(data.cache_directory).resolve()) if data.cache_directory else None,
    )


def check_inputs(config: RunConfig) -> str:
    """Check the data set against the config; returns the data set's fingerprint."""
    if config.begin_from is not None:
        where, checkpoint = find_checkpoint(config.begin_from)
        check_begins(checkpoint.config, str(where), config.model)
    check_vocabulary(config, load_manifests(config.data))
    stream = TokenStream(config.data)
    stream.check_limits(config.total_steps)
    return stream.fingerprint
