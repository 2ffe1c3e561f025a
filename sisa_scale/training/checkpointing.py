"""Saving a run."""

from typing import Any

import torch

from sisa_scale.checkpoint.manifest import Manifest
from sisa_scale.checkpoint.parts import write_part
from sisa_scale.config.run import to_plain
from sisa_scale.errors import CheckpointError
from sisa_scale.training.engine_state import owned_slices
from sisa_scale.training.run import Run
from sisa_scale.training.state import StepReport, TrainState


class Checkpointer:
    """Saves every so many steps, when a stop is asked for, and at the end."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """Save if it is time."""
        every = self.run.config.checkpoint.every_steps
        if (every and state.step % every == 0) or report.stop_requested or report.is_last:
            self.save(state)

    def save(self, state: TrainState) -> None:
        """Write a checkpoint with all workers; it counts only when every part is on disk.

        Raises CheckpointError on every worker when one of them could not write; what was written is removed.
        """
        run, workers = self.run, self.run.workers
        if workers.is_main:
            run.store.prepare(state.step)
        workers.barrier()
        staging = run.store.staging_path(state.step)
        parts: list[Any] = workers.gather(self._write_part(staging))
        failures = [part for part in parts if isinstance(part, CheckpointError)]
        if workers.is_main and failures:
            run.store.clear_staging()
        workers.barrier()
        if failures:
            raise failures[0]
        if workers.is_main:
            run.store.commit(state.step, self._manifest(state, parts))
            run.store.prune(run.config.checkpoint.keep_last)
        workers.barrier()

    def _write_part(self, staging: Any) -> Any:
        try:
            return write_part(staging, self.run.workers.rank, owned_slices(self.run.engine), torch.get_rng_state())
        except CheckpointError as error:
            return error

    def _manifest(self, state: TrainState, parts: list[Any]) -> Manifest:
        config, run = self.run.config, self.run
        return Manifest(
            step=state.step,
            tokens=state.tokens,
            config=to_plain(config),
            data_fingerprint=run.stream.fingerprint,
            world_size=run.workers.world_size,
            zero_stage=config.execution.zero_stage,
            shapes=run.engine.shapes,
            slices=tuple(piece for _, pieces in parts for piece in pieces),
            files=tuple(info for info, _ in parts),
        )
