"""What Ray Train's controller does when workers die: find out who was first, note it, and wait before the next try.

Runs in the controller, before it starts the workers again. Ray itself counts the failures (`resources.max_failures`).
"""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError
from ray.train import UserCallback

from sisa_scale.errors import TrainingError
from sisa_scale.orchestration.nodes import answers
from sisa_scale.runs.attempts import LOOP_ATTEMPTS, Attempt, crash_loop, restart_delay_seconds
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.exit_codes import HUNG
from sisa_scale.runs.failure import has_failure, note_failure
from sisa_scale.runs.owner import owns
from sisa_scale.training.health.crash_loop import loop_error

_EXIT_CODE = re.compile(r"exit(?:s|ed)? with (?:an )?(?:exit )?code (-?\d+)", re.I)
_MEANINGS = {HUNG: "its watchdog ended it", 1: "it ended itself"}


class DeathWatch(UserCallback):  # type: ignore[misc]
    """Notes every death of workers in the run directory."""

    def __init__(self, run_dir: Path, token: str) -> None:
        self.run_dir, self.token = run_dir, token
        self._num_stillborn = 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Note who died and why; end the run when it fails in a circle, else wait if it fails without progress."""
        if has_failure(self.run_dir) or not owns(self.run_dir, self.token):
            return
        directory = RunDirectory(self.run_dir)
        attempts = directory.attempts()
        if not attempts or attempts[-1].ended is not None:
            self._after_stillbirth(directory, worker_exceptions)
            return
        self._num_stillborn = 0
        ranks, reason = casualties(worker_exceptions, attempts[-1])
        directory.event("workers_lost", ranks=ranks, reason=reason)
        directory.close_attempt()
        attempts = directory.attempts()
        loop = crash_loop(attempts)
        if loop:
            directory.mark_final()
            note_failure(self.run_dir, loop_error(self.run_dir, loop))
            return
        self._wait(directory, restart_delay_seconds(attempts))

    def _after_stillbirth(self, directory: RunDirectory, worker_exceptions: dict[int, Exception]) -> None:
        """Deal with workers that failed before they could begin an attempt."""
        self._num_stillborn += 1
        rank, error = min(worker_exceptions.items())
        directory.event("workers_lost", ranks=[rank], reason=f"rank {rank} could not begin: {_headline(error)}")
        if self._num_stillborn < LOOP_ATTEMPTS:
            self._wait(directory, 2.0**self._num_stillborn)
            return
        problem = TrainingError.at(
            self.run_dir,
            found=f"{self._num_stillborn} starts in a row in which no attempt began, the last: {_headline(error)}",
            allowed="workers must be able to start",
            remedy="Nothing is lost. Remove the cause (a package, a device, a file system that a node lacks), then "
            f"`sisa-scale resume {self.run_dir}`.",
        )
        note_failure(self.run_dir, problem)

    def _wait(self, directory: RunDirectory, seconds: float) -> None:
        if seconds:
            directory.event("waiting", seconds=seconds, reason="the last attempts failed without getting further")
            time.sleep(seconds)


def casualties(exceptions: Mapping[int, Exception], attempt: Attempt) -> tuple[list[int], str]:
    """Return the ranks that went first, as far as can be known, and what became of them.

    Those whose process is gone go before those who complain about it. A node that no longer answers takes all of its
    ranks with it.
    """
    gone = {rank: error for rank, error in exceptions.items() if _is_death(error)}
    silent = sorted({node for node in attempt.nodes if not answers(node)})
    if silent:
        ranks = [rank for rank, node in enumerate(attempt.nodes) if node in silent]
        return ranks, f"{_who(ranks, attempt)}: the node does not answer any more"
    if gone:
        rank, error = min(gone.items())
        return sorted(gone), f"{_who(sorted(gone), attempt)}: {_how(error)}"
    rank, error = min(exceptions.items())
    return sorted(exceptions), f"rank {rank}: {_headline(error)}"


def _is_death(error: Exception) -> bool:
    return isinstance(getattr(error, "health_check_failure", error), RayActorError)


def _who(ranks: Sequence[int], attempt: Attempt) -> str:
    names = [f"rank {rank} ({attempt.processes[rank]})" for rank in ranks if rank < len(attempt.processes)]
    return ", ".join(names) or "a worker"


def _how(error: Exception) -> str:
    text = str(error)
    code = _EXIT_CODE.search(text)
    if code is not None:
        meaning = _MEANINGS.get(int(code[1]))
        return f"exit code {code[1]}" + (f", {meaning}" if meaning else "")
    if "memory" in text and "OutOfMemoryError" in text:
        return "Ray ended it because the node ran out of memory"
    return "the process is gone without an exit code: SIGKILL, the kernel's out-of-memory killer, or a crash"


def _headline(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
