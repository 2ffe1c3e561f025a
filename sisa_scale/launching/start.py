"""Turning a config into a run directory: everything that can fail early fails here, before Ray starts."""

import dataclasses
import os
import warnings
from pathlib import Path

from sisa_scale.checkpoint.manifest import Manifest
from sisa_scale.checkpoint.store import CheckpointStore, find_checkpoint, store_in
from sisa_scale.checkpoint.verifying import chosen
from sisa_scale.config.data import DataConfig
from sisa_scale.config.loading.extension import check_begins
from sisa_scale.config.loading.load import config_from_plain
from sisa_scale.config.run import RunConfig
from sisa_scale.data.read.sources import load_manifests
from sisa_scale.data.read.storage import absolute_location
from sisa_scale.data.read.stream import TokenStream
from sisa_scale.data.read.tokenizer_choice import check_vocabulary
from sisa_scale.errors import CheckpointError, ConfigError, SisaScaleWarning
from sisa_scale.evaluation.fetch import lambada_file
from sisa_scale.planning.twins import load_recipe
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.owner import check_free, take_over
from sisa_scale.runs.recipe import original_of, read_recipe
from sisa_scale.training.record import record
from sisa_scale.training.resume_rules import check_resumable, check_tokenizer
from sisa_scale.training.schedule import LearningRateSchedule

_MANY_EPOCHS = 100


def begin(config: RunConfig) -> RunConfig:
    """Claim the run directory of a new run; returns the config with absolute paths, as workers need it."""
    config = with_absolute_paths(config)
    fingerprint = check_inputs(config)
    directory = RunDirectory(config.directory)
    _check_empty(config)
    directory.create()
    record(directory, config, fingerprint)
    return config


def reopen(
    run_dir: Path, overrides: tuple[str, ...], *, takes_over: bool = False, from_step: int | None = None
) -> RunConfig:
    """Load the config of a run with overrides, and check that it still is the same run; nothing is written.

    takes_over: end another life of the run that goes on. from_step: of the checkpoint to go on from, which is verified;
    None is the newest. Raises CheckpointError when there is no run, or no such checkpoint, or when its model, data or
    seed would change; ConfigError when another life goes on.
    """
    if not RunDirectory(run_dir).config_path.exists():
        raise CheckpointError.at(
            run_dir,
            found="no run",
            allowed="the run directory of an earlier `sisa-scale train`",
            remedy="Check the path, or begin a run with `sisa-scale train`.",
        )
    if not takes_over:
        check_free(run_dir)
    config = with_absolute_paths(read_recipe(run_dir, overrides))
    _check_copy(run_dir, config)
    store = CheckpointStore(run_dir, config.checkpoint.directory)
    newest = store.newest_readable() if from_step is None else chosen(store, from_step)
    fingerprint = check_inputs(config, is_new=newest is None)
    if newest is not None:
        check_resumable(*newest, config, fingerprint)
        _tell_of_rise(newest[1], config)
    elif store_in(run_dir).steps():
        raise ConfigError.at(
            "checkpoint.directory",
            found=f"{config.checkpoint.directory}, which holds no checkpoint",
            allowed=f"the run has checkpoints at {store_in(run_dir).place.location('')}",
            remedy="Copy them to the new place first, or leave the setting as it was.",
        )
    if takes_over:
        take_over(run_dir)
    return config


def has_ended(config: RunConfig) -> bool:
    """Whether a run has taken all of its steps, so that starting it again would change nothing."""
    steps = CheckpointStore(config.directory, config.checkpoint.directory).steps()
    attempts = RunDirectory(config.directory).attempts()
    is_finished = bool(attempts) and attempts[-1].outcome == "finished"
    return is_finished and bool(steps) and steps[-1] >= config.total_steps


def join_run(
    recipe_or_run_dir: str, overrides: tuple[str, ...], *, is_main: bool, takes_over: bool = False
) -> RunConfig:
    """Return the config of a worker that torchrun started, of a new run or of one to continue.

    is_main: this worker also claims the run directory, or checks it. Restarted, it continues what its recipe began.
    """
    path = Path(recipe_or_run_dir)
    if path.is_dir():
        if is_main:
            return reopen(path, overrides, takes_over=takes_over)
        return with_absolute_paths(read_recipe(path, overrides))
    config = with_absolute_paths(load_recipe(recipe_or_run_dir, overrides).config)
    was_restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if is_main and not (was_restarted and RunDirectory(config.directory).config_path.exists()):
        begin(config)
    return config


def _check_copy(run_dir: Path, config: RunConfig) -> None:
    """Make sure that a copy of a run shares neither checkpoints nor its place at Weights & Biases with the original."""
    original = original_of(run_dir)
    if original is None:
        return
    directory = config.checkpoint.directory
    if directory is not None and directory == read_recipe(original).checkpoint.directory:
        raise ConfigError.at(
            "checkpoint.directory",
            found=f"{directory}, where the run in {original} keeps its checkpoints",
            allowed=f"it holds those of one run alone, and {run_dir} is a copy of that run",
            remedy="Copy the checkpoints, too, and name their new place with checkpoint.directory=PATH.",
        )
    RunDirectory(run_dir).forget_wandb_id(RunDirectory(original))


def _tell_of_rise(newest: Manifest, config: RunConfig) -> None:
    """Warn when a schedule that had decayed goes up again because the run is lengthened."""
    before, after = LearningRateSchedule(config_from_plain(newest.config, "")), LearningRateSchedule(config)
    old, new = before.learning_rate(newest.step - 1), after.learning_rate(newest.step)
    if not before.has_decayed(newest.step) or new <= 1.05 * old or newest.step >= config.total_steps:
        return
    by = f"{new / old:.3g} times as high" if old > 0 else "up from nothing"
    remedy = f" `learning_rate={old:.3g}` goes on without a rise." if old > 0 else ""
    warnings.warn(
        f"step {newest.step + 1:,}: the learning rate rises from {old:.3g} to {new:.3g} ({by}), because the schedule "
        f"had decayed and is longer now; the loss may rise with it.{remedy}",
        SisaScaleWarning,
        stacklevel=3,
    )


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


def check_inputs(config: RunConfig, *, is_new: bool = True) -> str:
    """Check the data set against the config; returns the data set's fingerprint.

    is_new: the run has no checkpoint of its own, so it needs the weights that it begins from.
    """
    manifests = load_manifests(config.data)
    if config.begin_from is not None and is_new:
        where, checkpoint = find_checkpoint(config.begin_from)
        check_begins(checkpoint.config, str(where), config.model)
        check_tokenizer(str(where), checkpoint, manifests.values())
    check_vocabulary(config, manifests)
    stream = TokenStream(config.data)
    stream.check_limits(config.total_steps)
    for use in stream.use(config.total_steps):
        if use.epochs > _MANY_EPOCHS:
            warnings.warn(
                f"{config.data.sources[use.source].path}: the run reads it {use.epochs:,.0f} times; a model that sees "
                "the same text so often learns it by heart. Shorten schedule.total, or build a larger data set.",
                SisaScaleWarning,
                stacklevel=2,
            )
    return stream.fingerprint
