"""Saving a run while it trains on."""

import threading
import time
import warnings
from types import TracebackType
from typing import Any, Self

import torch

from sisa_scale.checkpoint.manifest import Manifest
from sisa_scale.checkpoint.problems import WriterError
from sisa_scale.checkpoint.retention import surplus
from sisa_scale.checkpoint.saving import Written, write_checkpoint
from sisa_scale.checkpoint.slices import HostBuffer, Part
from sisa_scale.config.run import to_plain
from sisa_scale.errors import CheckpointError, Problem, SisaScaleWarning
from sisa_scale.faults import fault_point
from sisa_scale.runs.logs.evaluations import heldout_losses
from sisa_scale.runs.problems import RunDirectoryError
from sisa_scale.training.engine.zero_layout import owned_slices
from sisa_scale.training.run import Run
from sisa_scale.training.step import StepReport, TrainState

_FAREWELL_SECONDS = 60.0
_RETRY_SECONDS = 5.0
_URGENT_SECONDS = 15.0  # of SIGNAL_GRACE_SECONDS, less a step and a save


class Checkpointer:
    """Saves every so many steps or seconds, when a stop is asked for, and at the end unless that is turned off.

    Training waits while a worker's state is copied to host memory; a thread writes the copy, with the threads of the
    other workers, over a process group of their own. One checkpoint is written at a time: the next waits for it.
    While steps are refused nothing is due: the weights may be what is wrong. The next step that is taken saves.
    A periodic checkpoint that could not be written is recorded, and the next is tried when it is due; a run that is to
    end without its last checkpoint fails.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.peers = run.workers.aside()
        self.buffer = HostBuffer(is_pinned=run.workers.device.type == "cuda")
        self._writing: _Writing | None = None
        self._is_due = False

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """Save if it is time."""
        settings = self.run.config.checkpoint
        self._is_due |= report.is_save_due or (bool(settings.every_steps) and state.step % settings.every_steps == 0)
        if report.stop_requested or (report.is_last and settings.at_end):
            self.save(state, is_urgent=report.is_preempted)
        elif state.step in settings.at_steps or (self._is_due and report.refusal is None):
            self._is_due = False
            self.begin(state, is_awaited=not settings.asynchronous)
        if report.is_last:
            self.finish()

    def save(self, state: TrainState, *, is_urgent: bool = False) -> None:
        """Write a checkpoint and wait until it is durable; raises CheckpointError on every worker if it cannot be.

        Where the disk refuses it, it is tried again for `checkpoint.retry_seconds`: what was trained since the last one
        is in memory alone. is_urgent: the machine is taken away, so at most as long as that leaves.
        """
        error = self.begin(state, is_awaited=True)
        seconds = self.run.config.checkpoint.retry_seconds
        for number in range(int((min(seconds, _URGENT_SECONDS) if is_urgent else seconds) / _RETRY_SECONDS)):
            if error is None or isinstance(error, WriterError):
                break
            if number == 0 and self.run.workers.is_main:
                _warn(f"step {state.step}: the run waits, and tries its checkpoint every {_RETRY_SECONDS:g} s")
            time.sleep(_RETRY_SECONDS)
            error = self.begin(state, is_awaited=True)
        if error is not None:
            steps = self.run.store.steps()
            newest = f"the newest is of step {steps[-1]}" if steps else "there is none at all"
            lost = Problem(
                str(self.run.directory.path),
                f"no checkpoint of step {state.step}; {newest}",
                f"the last {state.step - (steps[-1] if steps else 0)} steps exist nowhere else",
                f"`sisa-scale resume {self.run.directory.path}` takes them again.",
            )
            raise CheckpointError.many([*error.problems, lost])

    def begin(self, state: TrainState, *, is_awaited: bool = False) -> CheckpointError | None:
        """Copy the state and start to write it; if it is awaited, returns why it could not be written, if so."""
        started = time.perf_counter()
        self.finish()
        with self.run.heart.phase("save", state.step):
            fault_point("checkpoint.copy.before")
            part = self.buffer.copy(owned_slices(self.run.engine), torch.get_rng_state())
        stall_seconds = time.perf_counter() - started
        self._writing = _Writing(self, state, part, stall_seconds, is_awaited=is_awaited)
        self._writing.start()
        error = self.finish() if is_awaited else None
        self.run.save_clock.restart()
        return error

    def finish(self) -> CheckpointError | None:
        """Wait for the checkpoint that is being written, if one is; returns why it could not be written, if so."""
        writing, self._writing = self._writing, None
        if writing is None:
            return None
        if writing.is_alive():
            with self.run.heart.phase("write", writing.state.step):
                writing.join()
        else:  # the watchdog learns from it how long to wait for another
            self.run.heart.seconds["write"].append(writing.seconds)
        if writing.crash is not None:
            raise writing.crash
        return writing.error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Give the checkpoint that is being written a minute, even if the run ends with an error."""
        if self._writing is not None:
            self._writing.join(_FAREWELL_SECONDS)


class _Writing(threading.Thread):
    """The thread of one checkpoint on one worker."""

    def __init__(
        self, checkpointer: Checkpointer, state: TrainState, part: Part, stall_seconds: float, *, is_awaited: bool
    ) -> None:
        # A daemon: a process that fails for another reason ends, rather than wait here for workers that are lost.
        super().__init__(name=f"checkpoint-{state.step}", daemon=True)
        self.run_, self.peers = checkpointer.run, checkpointer.peers
        self.state, self.part = state, part
        self.stall_seconds, self.is_awaited = stall_seconds, is_awaited
        self.error: CheckpointError | None = None
        self.crash: BaseException | None = None
        self.seconds = 0.0

    def run(self) -> None:
        """Write, record, remove what is surplus."""
        started = time.perf_counter()
        try:
            self._write()
        except BaseException as crash:
            self.crash = crash
        self.seconds = time.perf_counter() - started

    def _write(self) -> None:
        started, num_bytes = time.perf_counter(), 0
        stall_seconds = max(self.peers.gather(self.stall_seconds))
        try:
            num_bytes = write_checkpoint(self.run_.store, self.peers, self.state.step, self.part, self._manifest)
        except CheckpointError as error:
            self.error = error
        if not self.peers.is_main:
            return
        write_seconds = time.perf_counter() - started
        fields: dict[str, Any] = {
            "step": self.state.step,
            "stall_seconds": round(stall_seconds + (write_seconds if self.is_awaited else 0.0), 6),
            "write_seconds": round(write_seconds, 6),
            "bytes": num_bytes,
        }
        try:
            if self.error is None:
                self.run_.directory.event("checkpoint", **fields)
                remove_surplus(self.run_)
            else:
                _warn(f"step {self.state.step}: its checkpoint could not be written: {self.error}")
                self.run_.directory.event("checkpoint_failed", **fields, problems=[str(p) for p in self.error.problems])
        except (OSError, RunDirectoryError) as error:
            _warn(f"step {self.state.step}: {error}")

    def _manifest(self, parts: list[Written]) -> Manifest:
        run = self.run_
        run.directory.sync_logs()  # before the checkpoint exists: no step behind it may be missing in them
        return Manifest(
            step=self.state.step,
            tokens=self.state.tokens,
            config=to_plain(run.config),
            data_fingerprint=run.stream.fingerprint,
            world_size=run.workers.world_size,
            zero_stage=run.config.execution.zero_stage,
            shapes=run.engine.shapes,
            slices=tuple(piece for _, pieces in parts for piece in pieces),
            files=tuple(info for info, _ in parts),
            optimizer_states=run.engine.optimizer_states,
            skipped_steps=self.state.skipped_steps,
            tokenizer_sha256=run.stream.manifest.tokenizer.sha256,
        )


def remove_surplus(run: Run) -> None:
    """Remove the checkpoints that the settings do not keep; called by the main worker alone."""
    losses = heldout_losses(run.directory.path)
    try:
        for step in surplus(run.store.steps(), losses, run.config.checkpoint):
            run.store.remove(step)
    except OSError as error:
        _warn(f"{run.store.place.location('')}: checkpoints that are not kept could not be removed: {error}")


def _warn(message: str) -> None:
    warnings.warn(message, SisaScaleWarning, stacklevel=2)
