"""Saying why a run that fails at the same step again and again is not started once more."""

from collections.abc import Sequence
from pathlib import Path

from sisa_scale.checkpoint.store import store_in
from sisa_scale.errors import TrainingError
from sisa_scale.runs.attempts import Attempt
from sisa_scale.runs.directory import RunDirectory


def unsaved(run_dir: Path) -> str:
    """Say which checkpoint a run would go on from, and what was done since: steps and seconds."""
    step = (store_in(run_dir).steps() or [0])[-1]
    num_steps, seconds = RunDirectory(run_dir).since(step)
    newest = f"The newest checkpoint is of step {step:,}" if step else "There is no checkpoint yet"
    return f"{newest}; {num_steps:,} later steps ({seconds:.1f} s of work) are lost and will be taken again."


def loop_error(run_dir: Path, loop: Sequence[Attempt]) -> TrainingError:
    """Return the error of a run whose attempts `loop` all failed at the same step."""
    reached = loop[-1].reached_step or 0
    last = "; ".join(f"attempt {attempt.attempt}: {attempt.reason}" for attempt in loop)
    return TrainingError.at(
        f"{run_dir}, step {reached + 1}",
        found=f"{len(loop)} attempts in a row that failed there ({last})",
        allowed="a run is started again by itself as long as it gets further",
        remedy=f"{unsaved(run_dir)} `sisa-scale replay {run_dir} --step {reached + 1}` takes "
        f"that step alone; with the cause removed, `sisa-scale resume {run_dir}` goes on.",
    )
