"""The training loop."""

from sisa_scale.training.restore import restore
from sisa_scale.training.run import Run
from sisa_scale.training.step import TrainState


def train(run: Run) -> TrainState:
    """Take every step that is left, from the newest checkpoint to the end of the schedule or to a stop."""
    with run.heart.phase("restore"):
        state = restore(run)
        run.recall(state)
        if run.is_stopped_before(state):
            return state
    for opening in run.openings:
        opening(state)
    for batch in run.batches(state):
        report = run.step(state, batch)
        state = run.advance(state, report)
        for hook in run.hooks:
            hook(state, report)
        if report.stop_requested:
            break
    return state
