"""A run on one worker: model, engine, data and hooks, wired from the config."""

import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from sisa_scale.checkpoint.manifest import verify_files
from sisa_scale.checkpoint.parts import CheckpointReader
from sisa_scale.checkpoint.store import CheckpointStore, find_checkpoint
from sisa_scale.config.extension import check_begins
from sisa_scale.config.run import RunConfig
from sisa_scale.data.stream import DIGEST_MODULUS, Batch, TokenStream
from sisa_scale.models.decoder import Decoder
from sisa_scale.training.attention_backend import choose_backend
from sisa_scale.training.communicator import Communicator
from sisa_scale.training.engine import Engine
from sisa_scale.training.engine_state import load_moments
from sisa_scale.training.resume import check_resumable
from sisa_scale.training.run_directory import DATA_EVENTS, RunDirectory
from sisa_scale.training.schedule import LearningRateSchedule
from sisa_scale.training.state import StepReport, TrainState
from sisa_scale.training.waiting import TimedIterator

Hook = Callable[[TrainState, StepReport], None]


class Run:
    """Everything one worker needs to train; `hooks` are called after every step, in order."""

    def __init__(self, config: RunConfig, workers: Communicator) -> None:
        self.config, self.workers = config, workers
        self.directory = RunDirectory(config.directory)
        self.store = CheckpointStore(config.directory)
        self.schedule = LearningRateSchedule(config)
        self.stream = TokenStream(config.data, lambda event: self.directory.append(DATA_EVENTS, event))
        self.stream.check_limits(config.total_steps)
        self.backend = choose_backend(config, workers)
        self.hooks: list[Hook] = []

    def restore(self) -> TrainState:
        """Build the engine with the weights of the newest checkpoint or fresh ones; returns where the run stands."""
        model = Decoder(self.config.model, self.config.execution, self.backend)
        newest = self.store.newest()
        if newest is None:
            self._begin_weights(model)
            self.engine = self._engine(model)
            return self._begin(TrainState())
        path, manifest = find_checkpoint(newest)
        check_resumable(path, manifest, self.config, self.stream.fingerprint)
        rank, world_size = self.workers.rank, self.workers.world_size
        verify_files(path, manifest.files[rank::world_size])
        self.workers.barrier()
        reader = CheckpointReader(path, manifest)
        reader.load_weights(model.named_parameters())
        self.engine = self._engine(model)
        load_moments(self.engine, reader, manifest.step)
        rng_state = reader.rng_state(rank)
        if rng_state is not None:
            torch.set_rng_state(rng_state)
        return self._begin(TrainState(manifest.step, manifest.tokens))

    def _engine(self, model: Decoder) -> Engine:
        data = self.config.data
        is_packed = any(source.manifest.packing is not None for source in self.stream.sources)
        ignores_targets = data.documents == "separate" or data.on_corrupt == "skip" or is_packed
        return Engine(model, self.config, self.workers, ignores_targets=ignores_targets)

    def _begin_weights(self, model: Decoder) -> None:
        """Draw the weights, or take those of the checkpoint that the run begins from."""
        if self.config.begin_from is None:
            model.initialise(self.config.seed)
            return
        path, manifest = find_checkpoint(Path(self.config.begin_from))
        check_begins(manifest.config, str(path), self.config.model)
        verify_files(path, manifest.files[self.workers.rank :: self.workers.world_size])
        self.workers.barrier()
        CheckpointReader(path, manifest).load_weights(model.named_parameters())

    def batches(self, state: TrainState) -> Iterator[Batch]:
        """Yield this worker's share of every global batch that is left, read ahead in the background."""
        steps = range(state.step, self.config.total_steps)
        self._timed = TimedIterator(self.stream.batches(steps, self.workers.rank, self.workers.world_size))
        return self._timed

    def step(self, state: TrainState, batch: Batch) -> StepReport:
        """Take one optimizer step and agree with all workers on what it was and whether to stop."""
        learning_rate = self.schedule.learning_rate(state.step)
        result = self.engine.step(batch, learning_rate)
        wants_stop = self.workers.is_main and self.directory.stop_path.exists()
        votes = self.workers.sum(torch.tensor([batch.digest, int(wants_stop)]))
        return StepReport(
            loss=result.loss,
            gradient_norm=result.gradient_norm,
            learning_rate=learning_rate,
            num_tokens=self.config.data.global_batch_tokens,
            stream_digest=f"{int(votes[0]) % DIGEST_MODULUS:016x}",
            step_seconds=result.seconds + self._timed.wait_seconds,
            wait_seconds=self._timed.wait_seconds,
            is_last=state.step + 1 == self.config.total_steps,
            stop_requested=bool(votes[1]),
        )

    def advance(self, state: TrainState, report: StepReport) -> TrainState:
        """Return the state after a step."""
        return TrainState(state.step + 1, state.tokens + report.num_tokens)

    def _begin(self, state: TrainState) -> TrainState:
        processes = self.workers.gather(f"{platform.node()}:{os.getpid()}")
        if self.workers.is_main:
            self.store.clear_staging()
            self.directory.rewind(state.step)
            self.directory.begin_attempt(state.step, self.config, processes)
        self.workers.barrier()
        return state
