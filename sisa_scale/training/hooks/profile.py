"""A look into the steps of a run that goes on, when a person asks for it (`sisa-scale profile`).

The request is a file; the workers agree on it in the vote that every step has, so all begin after the same step. What
is profiled is the path of a step as it is: no number of it changes.
"""

import json
import time
from pathlib import Path
from typing import Any, Protocol

from torch.profiler import ProfilerActivity, profile, record_function

from sisa_scale.compat.torch import record_memory_history, write_memory_snapshot
from sisa_scale.runs.diagnostics import Diagnostics
from sisa_scale.runs.profile_request import ProfileRequest, take_profile_request
from sisa_scale.training.kernel_table import STEP_MARK, kernel_table
from sisa_scale.training.run import Run
from sisa_scale.training.step import StepReport, TrainState


class _Look(Protocol):
    """What is done from the first profiled step to the last."""

    def step(self) -> None:
        """End a step and begin the next."""
        ...

    def write(self, directory: Path, rank: int, num_steps: int) -> None:
        """End the last step and write what was seen."""
        ...


class Profiling:
    """The last hook of every worker: profiles the steps that follow a request."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._request: ProfileRequest | None = None
        self._look: _Look | None = None
        self._first = 0
        self._seconds = 0.0

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """End what is complete, then begin what is asked; all workers do so after the same step."""
        is_over = report.is_last or report.stop_requested
        if self._request is not None:
            if is_over or state.step - self._first + 1 >= self._request.steps:
                self._end(state.step)
            elif self._look is not None:
                self._look.step()
        elif report.profile_requested and not is_over:
            self._begin(state.step + 1)

    def _begin(self, first: int) -> None:
        run, started = self.run, time.perf_counter()
        request = run.workers.broadcast(take_profile_request(run.directory.path) if run.workers.is_main else None)
        reason = self._refusal(request)
        if reason is not None:
            if run.workers.is_main:
                run.directory.event("profile_refused", step=first, reason=reason)
            return
        self._request, self._first = request, first
        with run.heart.phase("profile", first):
            if request.includes(run.workers.rank):
                self._look = _Memory() if request.is_memory else _Trace(first, run.workers.device.type == "cuda")
            run.workers.barrier()
        self._seconds = time.perf_counter() - started

    def _refusal(self, request: ProfileRequest | None) -> str | None:
        workers = self.run.workers
        if request is None:
            return "the request cannot be read"
        if request.is_memory and workers.device.type != "cuda":
            return "a memory snapshot is of a GPU, and this run computes on CPUs"
        unknown = [rank for rank in request.ranks or () if not 0 <= rank < workers.world_size]
        return f"there is no rank {unknown[0]}: the run has {workers.world_size} workers" if unknown else None

    def _end(self, last: int) -> None:
        run, request, look, started = self.run, self._request, self._look, time.perf_counter()
        assert request is not None
        self._request, self._look = None, None
        directory = Diagnostics(run.directory.path, run.directory.current_attempt()).profile_directory(self._first)
        num_steps = last - self._first + 1
        with run.heart.phase("profile", last):
            problem = None
            if look is not None:
                try:
                    directory.mkdir(parents=True, exist_ok=True)
                    look.write(directory, run.workers.rank, num_steps)
                except (OSError, RuntimeError) as error:  # a full disk; no run ends for a trace
                    problem = f"rank {run.workers.rank}: {error}"
            problems = [found for found in run.workers.gather(problem) if found is not None]  # the others wait here
        seconds = self._seconds + time.perf_counter() - started
        if run.workers.is_main:
            ranks = list(range(run.workers.world_size)) if request.ranks is None else sorted(set(request.ranks))
            run.directory.event(
                "profile",
                step=self._first,
                steps=num_steps,
                ranks=ranks,
                seconds=round(seconds, 3),
                directory=str(directory.relative_to(run.directory.path)),
                is_memory=request.is_memory,
                problems=problems,
            )


class _Trace:
    """Torch's profiler; every step is marked with its number."""

    def __init__(self, first: int, on_gpu: bool) -> None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        self._profiler: Any = profile(activities=activities)
        self._next = first
        self._profiler.start()
        self._mark = self._begin()

    def _begin(self) -> record_function:
        mark = record_function(f"{STEP_MARK}#{self._next}")
        mark.__enter__()
        self._next += 1
        return mark

    def step(self) -> None:
        self._mark.__exit__(None, None, None)
        self._mark = self._begin()

    def write(self, directory: Path, rank: int, num_steps: int) -> None:
        self._mark.__exit__(None, None, None)
        self._profiler.stop()
        self._profiler.export_chrome_trace(str(directory / f"rank_{rank}.json.gz"))
        table = kernel_table(self._profiler, num_steps)
        text = json.dumps({"by_kind_ms": table.by_kind_ms, "longest": table.longest}, indent=1)
        (directory / f"kernels_{rank}.json").write_text(text)


class _Memory:
    """The GPU's allocations with the Python stacks that made them, for pytorch.org/memory_viz."""

    def __init__(self) -> None:
        record_memory_history(is_on=True)

    def step(self) -> None:
        pass

    def write(self, directory: Path, rank: int, num_steps: int) -> None:
        write_memory_snapshot(directory / f"memory_{rank}.pickle")
        record_memory_history(is_on=False)
