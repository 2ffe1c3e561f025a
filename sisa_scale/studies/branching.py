"""A branch begins as a copy of its trunk at a step: checkpoint, logs and data cursor, under a recipe of its own.

From there on it is a run like any other, which goes on from its newest checkpoint: weights, moments, the number of
applied steps, random states and the guard's memory are those that the trunk had after that step.
"""

import os
import shutil
from pathlib import Path

from sisa_scale.checkpoint.manifest import read_manifest
from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import CheckpointError
from sisa_scale.files import fsync_directory
from sisa_scale.runs.cursor import copy_rollbacks
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.layout import JOBS, holds_run
from sisa_scale.runs.logs.step_logs import copy_until
from sisa_scale.training.record import record
from sisa_scale.training.resume_rules import check_resumable

BEFORE_THE_BRANCH = 0  # the attempt that the steps of the trunk are logged under: none of the branch's own


def begin_branch(trunk_dir: Path, step: int, config: RunConfig) -> None:
    """Make the run directory of a branch, whole or not at all; nothing is done where it exists.

    config: the branch's, with absolute paths. The files of the checkpoint are linked, or copied where that is not
    possible. Raises CheckpointError where the trunk keeps no checkpoint of that step, or is another model or order.
    """
    final = config.directory
    if holds_run(final):
        return
    store = CheckpointStore(trunk_dir)
    if step not in store.steps():
        raise CheckpointError.at(
            store.path(step),
            found=f"no checkpoint of step {step} (there are {store.steps() or 'none'})",
            allowed=f"the branch {config.name} begins from it",
            remedy="Run the trunk first, at least that far, with checkpoint.at_steps as the plan has it.",
        )
    source = store.path(step)
    manifest = read_manifest(source)
    check_resumable(source, manifest, config, None)
    final.parent.mkdir(parents=True, exist_ok=True)
    staging = final.with_name(f".{final.name}.branch")
    shutil.rmtree(staging, ignore_errors=True)
    directory = RunDirectory(staging)
    _link_tree(source, CheckpointStore(staging).path(step))
    copy_until(trunk_dir, staging, step, BEFORE_THE_BRANCH)
    copy_rollbacks(trunk_dir, staging, step)
    directory.event("branch", step=step, trunk=str(trunk_dir))
    record(directory, config, manifest.data_fingerprint)
    _replace(final, staging)
    fsync_directory(final.parent)


def _replace(final: Path, staging: Path) -> None:
    """Put the new directory in its place, where at most the notes of its submissions lie until now."""
    if not final.exists():
        staging.rename(final)
        return
    if (final / JOBS).exists():
        shutil.copytree(final / JOBS, staging / JOBS)
    before = final.with_name(f".{final.name}.before")
    shutil.rmtree(before, ignore_errors=True)
    final.rename(before)
    staging.rename(final)
    shutil.rmtree(before)


def _link_tree(source: Path, target: Path) -> None:
    """Copy a directory of files that are never written again by hard links."""
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        try:
            os.link(path, target / path.name)
        except OSError:
            shutil.copy2(path, target / path.name)
    fsync_directory(target)
