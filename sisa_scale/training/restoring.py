"""Where a run stands when its processes start: at its newest checkpoint, or at the beginning."""

import os
import platform
from pathlib import Path

import torch

from sisa_scale.checkpoint.manifest import verify_files
from sisa_scale.checkpoint.parts import CheckpointReader
from sisa_scale.checkpoint.store import find_checkpoint
from sisa_scale.config.extension import check_begins
from sisa_scale.models.decoder import Decoder
from sisa_scale.training.engine import Engine
from sisa_scale.training.engine_state import load_moments
from sisa_scale.training.resume import check_resumable
from sisa_scale.training.run import Run
from sisa_scale.training.state import TrainState


def restore(run: Run) -> TrainState:
    """Build the engine of a run with the weights of its newest checkpoint or fresh ones; returns where it stands."""
    model = Decoder(run.config.model, run.config.execution, run.backend)
    newest = run.store.newest()
    if newest is None:
        _begin_weights(run, model)
        run.engine = _engine(run, model)
        return _begin_attempt(run, TrainState())
    path, manifest = find_checkpoint(newest)
    check_resumable(path, manifest, run.config, run.stream.fingerprint)
    verify_files(path, manifest.files[run.workers.rank :: run.workers.world_size])
    run.workers.barrier()
    reader = CheckpointReader(path, manifest)
    reader.load_weights(model.named_parameters())
    run.engine = _engine(run, model)
    load_moments(run.engine, reader, manifest.step)
    rng_state = reader.rng_state(run.workers.rank)
    if rng_state is not None:
        torch.set_rng_state(rng_state)
    return _begin_attempt(run, TrainState(manifest.step, manifest.tokens))


def _engine(run: Run, model: Decoder) -> Engine:
    data = run.config.data
    is_packed = any(source.manifest.packing is not None for source in run.stream.sources)
    ignores_targets = data.documents == "separate" or data.on_corrupt == "skip" or is_packed
    return Engine(model, run.config, run.workers, ignores_targets=ignores_targets)


def _begin_weights(run: Run, model: Decoder) -> None:
    """Draw the weights, or take those of the checkpoint that the run begins from."""
    if run.config.begin_from is None:
        model.initialise(run.config.seed)
        return
    path, manifest = find_checkpoint(Path(run.config.begin_from))
    check_begins(manifest.config, str(path), run.config.model)
    verify_files(path, manifest.files[run.workers.rank :: run.workers.world_size])
    run.workers.barrier()
    CheckpointReader(path, manifest).load_weights(model.named_parameters())


def _begin_attempt(run: Run, state: TrainState) -> TrainState:
    processes = run.workers.gather(f"{platform.node()}:{os.getpid()}")
    if run.workers.is_main:
        run.store.clear_staging()
        run.directory.rewind(state.step)
        run.directory.begin_attempt(state.step, run.config, processes)
    run.workers.barrier()
    return state
