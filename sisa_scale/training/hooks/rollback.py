"""The end of the guard's patience: record what was skipped, go back to the newest checkpoint, or give the run up."""

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
        past = run.workers.broadcast(read_rollbacks(run.directory.path) if run.workers.is_main else None)
        recent = sum(rollback["step"] > step - settings.window_steps for rollback in past)
        if recent >= settings.max_rollbacks:
            raise self._given_up(step, reason, recent)
        if run.workers.is_main:
            leave_out = settings.after_rollback == "skip_data"
            add_rollback(run.directory.path, step, reason, self._refused, leave_out=leave_out)
            run.directory.event("rollback", step=step, reason=reason, after_rollback=settings.after_rollback)
        run.workers.barrier()
        raise RollBackError(f"step {step}: {reason}. The run goes back to its newest checkpoint.")

    def _given_up(self, step: int, reason: str, recent: int) -> TrainingError:
        settings = self.run.config.guard
        remedy = "Nothing of the last steps was saved. Lower optimizer.learning_rate or lengthen schedule.warmup"
        if settings.after_rollback == "retry":
            remedy += ", or leave the data of the bad steps out with guard.after_rollback=skip_data"
        return TrainingError.at(
            f"step {step}",
            found=f"{reason}; {recent} rollbacks were made",
            allowed=f"guard.max_rollbacks {settings.max_rollbacks} are made within {settings.window_steps} steps",
            remedy=f"{remedy}, then resume.",
        )
