"""The end of the guard's patience: record what was skipped, go back to the newest checkpoint, or give the run up."""

from typing import Any

from sisa_scale.errors import TrainingError
from sisa_scale.runs.cursor import add_rollback, read_rollbacks
from sisa_scale.training.run import Run
from sisa_scale.training.step import StepReport, TrainState


class RollBackError(Exception):
    """Ends the processes, so that whoever started them starts them again from the newest checkpoint."""


class RefusedSteps:
    """Records every skipped step; rolls the run back, or ends it, when there were too many."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._refused: list[tuple[int, int]] = []  # (step from 1, data step from 0) of this life

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """Look at a step; raises RollBackError or TrainingError on every worker."""
        if report.refusal is None:
            return
        self._refused.append((state.step, report.data_step))
        micro_losses = self.run.workers.gather(report.micro_losses)
        if self.run.workers.is_main:
            self.run.directory.event(
                "step_skipped",
                step=state.step,
                reason=str(report.refusal),
                loss=str(report.loss),
                gradient_norm=str(report.gradient_norm),
                threshold=report.refusal.threshold,
                data_step=report.data_step,
                stream_digest=report.stream_digest,
                micro_losses_by_rank=[[str(loss) for loss in losses] for losses in micro_losses],
            )
        exceeded = self.run.guard.exhausted(state.step)
        if exceeded is not None:
            self._go_back(state.step, f"{report.refusal}; {exceeded}")

    def _go_back(self, step: int, reason: str) -> None:
        run, settings = self.run, self.run.config.guard
        past = run.workers.broadcast(self._rollbacks() if run.workers.is_main else None)
        recent = sum(rollback["step"] > step - settings.window_steps for rollback in past)
        is_over = recent >= settings.max_rollbacks
        if run.workers.is_main:
            self._distrust(step, {rollback["to_step"] for rollback in past})
            if is_over:
                run.directory.mark_final()
            else:
                attempt, leave_out = run.directory.current_attempt(), settings.after_rollback == "skip_data"
                add_rollback(run.directory.path, step, reason, self._refused, leave_out=leave_out, attempt=attempt)
                run.directory.event("rollback", step=step, reason=reason, after_rollback=settings.after_rollback)
        run.workers.barrier()
        if is_over:
            raise self._given_up(step, reason, recent)
        raise RollBackError(f"step {step}: {reason}. The run goes back to its newest checkpoint.")

    def _rollbacks(self) -> list[dict[str, Any]]:
        """Return the rollbacks since a person last went on after the guard had given up."""
        last_final = max((a.attempt for a in self.run.directory.attempts() if a.is_final), default=-1)
        return [each for each in read_rollbacks(self.run.directory.path) if each.get("attempt", 0) > last_final]

    def _distrust(self, step: int, returned_to: set[int | None]) -> None:
        """Put checkpoints aside that are no place to return to, as long as there is one before them.

        They were made amid the steps that were refused; or just before them, and the run was there before in vain.
        """
        store, first = self.run.store, step - self.run.guard.num_refused_in_a_row + 1
        for saved in reversed(store.steps()[1:]):
            if saved >= first or (saved == first - 1 and saved in returned_to):
                moved_to = store.set_aside(saved)
                self.run.directory.event("checkpoint_distrusted", step=saved, moved_to=moved_to, first_refused=first)

    def _given_up(self, step: int, reason: str, recent: int) -> TrainingError:
        settings = self.run.config.guard
        remedy = "The last steps changed no weight. Lower optimizer.learning_rate or lengthen schedule.warmup"
        if settings.after_rollback == "retry":
            remedy += ", or leave the data of the bad steps out with guard.after_rollback=skip_data"
        return TrainingError.at(
            f"step {step}",
            found=f"{reason}; {recent} rollbacks were made",
            allowed=f"guard.max_rollbacks {settings.max_rollbacks} are made within {settings.window_steps} steps",
            remedy=f"{remedy}, then resume.",
        )
