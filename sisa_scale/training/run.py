"""A run on one worker: model, engine, data and hooks, wired from the config."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.config.run import RunConfig
from sisa_scale.data.read.stream import Batch, TokenStream
from sisa_scale.faults import fault_point
from sisa_scale.runs.cursor import read_cursor, settle_rollbacks
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.logs.metrics import last_steps
from sisa_scale.runs.owner import Fence
from sisa_scale.runs.profile_request import request_path
from sisa_scale.runs.stop_request import Reason, StopRequest, asked_to_stop
from sisa_scale.training.engine.attention_backend import choose_backend
from sisa_scale.training.engine.communicator import Communicator
from sisa_scale.training.engine.engine import Engine
from sisa_scale.training.engine.float8_device import check_float8
from sisa_scale.training.health.guard import NumericalGuard, PastStep
from sisa_scale.training.health.heart import Heart
from sisa_scale.training.health.save_clock import SaveClock
from sisa_scale.training.health.votes import StepVote, asked_together
from sisa_scale.training.schedule import LearningRateSchedule
from sisa_scale.training.step import StepReport, TrainState
from sisa_scale.training.waiting import TimedIterator

Hook = Callable[[TrainState, StepReport], None]
Opening = Callable[[TrainState], None]


class Run:
    """Everything one worker needs to train; `hooks` are called after every step, `openings` before the first of a life.

    stopped_by: why the run was asked to stop, once all workers have agreed to. fence: of the main worker.
    """

    def __init__(self, config: RunConfig, workers: Communicator, fence: Fence | None = None) -> None:
        self.config, self.workers, self.fence = config, workers, fence
        self.heart = Heart()
        self.directory = RunDirectory(config.directory)
        self.store = CheckpointStore(config.directory, config.checkpoint.directory)
        self.schedule = LearningRateSchedule(config)
        self.guard = NumericalGuard(config.guard, self.schedule.warmup_steps)
        self.cursor = read_cursor(config.directory)
        self.stream = TokenStream(config.data, self._note_data_event)
        self.stream.check_limits(self.cursor.data_step(config.total_steps - 1) + 1)
        check_float8(config.execution, workers.device)
        self.backend = choose_backend(config, workers)
        self.save_clock = SaveClock(config.checkpoint.every_seconds)
        self.openings: list[Opening] = []
        self.hooks: list[Hook] = []
        self.stopped_by: Reason | None = None
        self.engine: Engine

    def recall(self, state: TrainState) -> None:
        """Know what must be known of the steps before `state`: for the guard, and which data is left out."""
        if self.workers.is_main:
            settle_rollbacks(self.directory.path, state.step)
        read = (read_cursor(self.directory.path), self._past_steps(state.step)) if self.workers.is_main else None
        self.cursor, past_steps = self.workers.broadcast(read)
        self.guard.remember(past_steps)

    def is_stopped_before(self, state: TrainState) -> bool:
        """Whether the workers were asked to stop before a step was taken: there is nothing to save."""
        reason = asked_together(self.workers, self.directory.stop_path)
        if reason is not None:
            self._note_stop(state.step, reason, None)
        return reason is not None

    def batches(self, state: TrainState) -> Iterator[Batch]:
        """Yield this worker's share of every global batch that is left, read ahead in the background.

        Workers that share sequences have the same.
        """
        steps = map(self.cursor.data_step, range(state.step, self.config.total_steps))
        sharing = self.config.execution.sequence_parallel_size
        readers = self.workers.rank // sharing, self.workers.world_size // sharing
        self._timed = TimedIterator(self.stream.batches(steps, *readers))
        for step in range(state.step, self.config.total_steps):
            with self.heart.phase("data_wait", step + 1):
                fault_point("data.before_batch")
                batch = next(self._timed)
            yield batch

    def step(self, state: TrainState, batch: Batch) -> StepReport:
        """Take one optimizer step, or skip it, as all workers agree; and agree on whether to stop."""
        step, data_step = state.step + 1, self.cursor.data_step(state.step)
        learning_rate = self.schedule.learning_rate(state.step)
        stop = asked_to_stop(self.directory.stop_path if self.workers.is_main else None)
        is_first_reader = self.workers.rank % self.config.execution.sequence_parallel_size == 0
        digest = batch.digest if is_first_reader else 0
        vote = StepVote(
            self.workers,
            self.guard,
            step,
            digest,
            stop,
            self.fence,
            is_save_due=self.workers.is_main and self.save_clock.is_due(),
            is_profile_asked=self.workers.is_main and request_path(self.directory.path).exists(),
        )
        with self.heart.phase("step", step):
            result = self.engine.step(batch, learning_rate, vote)
        if vote.is_fenced:
            self.check_fence()
        self.guard.remember([PastStep(step, vote.loss, vote.gradient_norm, vote.refusal is not None)])
        if vote.stop_requested:
            self._note_stop(step, "preemption" if vote.is_preempted else "interrupt", stop)
        return StepReport(
            loss=vote.loss,
            gradient_norm=vote.gradient_norm,
            learning_rate=learning_rate,
            num_tokens=self.config.data.batches.tokens(data_step),
            data_step=data_step,
            stream_digest=vote.stream_digest,
            step_seconds=result.seconds + self._timed.wait_seconds,
            wait_seconds=self._timed.wait_seconds,
            is_last=step == self.config.total_steps,
            stop_requested=vote.stop_requested,
            is_preempted=vote.is_preempted,
            is_save_due=vote.is_save_due,
            profile_requested=vote.profile_requested,
            refusal=vote.refusal,
            micro_losses=result.micro_losses,
        )

    def check_fence(self) -> None:
        """Raise FencedError on every worker if another life has taken the run over by now."""
        fence = self.fence if self.workers.is_main else None
        error = self.workers.broadcast(fence.look() if fence is not None else None)
        if error is not None:
            raise error

    def advance(self, state: TrainState, report: StepReport) -> TrainState:
        """Return the state after a step."""
        skipped_steps = state.skipped_steps + (report.refusal is not None)
        return TrainState(state.step + 1, state.tokens + report.num_tokens, skipped_steps)

    def _past_steps(self, step: int) -> list[PastStep]:
        """Return the steps up to `step` that the guard needs to judge the next as if it had seen them."""
        rows = last_steps(self.directory.path, step, self.guard.num_remembered)
        return [PastStep(row.step, row.loss, row.gradient_norm, row.skipped) for row in rows]

    def _note_stop(self, step: int, reason: Reason, own: StopRequest | None) -> None:
        self.stopped_by = reason
        if self.workers.is_main:
            seconds_left = None if own is None or own.deadline is None else round(own.deadline - time.time(), 1)
            self.directory.event("stop_requested", step=step, reason=reason, seconds_left=seconds_left)

    def _note_data_event(self, event: dict[str, Any]) -> None:
        """Log what the stream says of a data step under the training step that reads it."""
        self.directory.add_data_event(self.cursor.step(event["step"] - 1) + 1, event)
