"""Refusing to go on from a broken loss."""

import math

from sisa_scale.errors import TrainingError
from sisa_scale.training.state import StepReport, TrainState


class FiniteLossGuard:
    """Ends the run at a loss or gradient that is not finite; all workers see the same values and end together."""

    def __call__(self, state: TrainState, report: StepReport) -> None:
        """Raise TrainingError for a non-finite step."""
        if math.isfinite(report.loss) and math.isfinite(report.gradient_norm):
            return
        raise TrainingError.at(
            f"step {state.step}",
            found=f"loss {report.loss}, gradient norm {report.gradient_norm}",
            allowed="both must be finite",
            remedy="Nothing of it was saved. Lower optimizer.learning_rate or lengthen schedule.warmup, then resume.",
        )
