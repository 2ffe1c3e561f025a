"""A run on one worker: model, engine, data and hooks, wired from the config."""

from collections.abc import Callable, Iterator

import torch

from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.config.run import RunConfig
from sisa_scale.data.stream import DIGEST_MODULUS, Batch, TokenStream
from sisa_scale.training.attention_backend import choose_backend
from sisa_scale.training.communicator import Communicator
from sisa_scale.training.engine import Engine
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
        self.engine: Engine

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
