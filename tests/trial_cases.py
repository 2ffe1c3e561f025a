"""Run directories of a study's trials, as runs leave them, without a run."""

from typing import Any

from run_lines import step_row

from sisa_scale.config.loading.load import load_config
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.logs.evaluations import ScoreRow
from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.training.record import record


def pretend(directory: StudyDirectory, name: str, *, loss: float | None = 2.0, steps: int | None = None,
            outcome: str | None = "finished", fingerprint: str = "f" * 64) -> None:  # fmt: skip
    """Write the run directory of a trial as a run leaves it. outcome: None for one that was killed, or diverged."""
    planned = next(trial for trial in directory.trials() if trial.name == name)
    steps = planned.total_steps if steps is None else steps
    config = load_config(planned.values["recipe"], planned.values["overrides"]).config
    run = RunDirectory(planned.directory)
    run.path.mkdir(parents=True)
    record(run, config, fingerprint)
    run.begin_attempt(config, ["elsewhere:1"], ["elsewhere"])
    for step in range(1, steps + 1):
        run.add_step(step_row(step, loss=6.0 - 0.1 * step))
    if loss is not None and steps == planned.total_steps:
        score: dict[str, Any] = {"step": steps, "tokens": steps * 256, "task": "loss", "variant": "heldout"}
        score |= {"num_items": 32, "standard_error": 0.01}
        measured = [("loss", "nats/token", loss), ("bits_per_byte", "bits/byte", loss / 2)]
        run.add_scores([ScoreRow(**score, metric=name, unit=unit, value=value) for name, unit, value in measured])
    if outcome in ("failed", "diverged"):
        if outcome == "diverged":
            run.event("step_skipped", step=steps, reason="the loss is nan")
        error = "DataError: a damaged shard" if outcome == "failed" else "TrainingError: step 3: the loss is nan"
        run.event("error", rank=0, error=error)
        run.close_attempt()
        run.mark_final()
    elif outcome is not None:
        run.end_attempt(outcome)
