"""Going back to a step that a person chose: what lies behind it is kept aside, and the run goes on from there."""

from sisa_scale.checkpoint.store import CheckpointStore
from sisa_scale.config.run import RunConfig
from sisa_scale.launching.reporter import Reporter
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.logs.events import describe
from sisa_scale.runs.owner import Life


def go_back(config: RunConfig, step: int, reporter: Reporter) -> None:
    """Make the checkpoint of `step` the newest of a run; nothing is done where it is.

    Later checkpoints are renamed (`step_N.abandoned`), later lines of the step logs copied. The run begins anew at
    Weights & Biases, which takes no step twice. What the guard and the crash loop remember of failures is over: a
    person went on. Raises ConfigError when another life goes on.
    """
    store = CheckpointStore(config.directory, config.checkpoint.directory)
    directory = RunDirectory(config.directory)
    with Life(config.directory):
        store.claim()  # a worker that still lives cannot add to them
        directory.close_attempt()
        later = [each for each in store.candidates() if each > step]
        last = max([directory.last_step(), *later])
        if last <= step:
            return
        kept_in = directory.abandon_beyond(step)
        # The newest first: wherever this ends early, the run still has a newest checkpoint that fits its logs.
        for each in later:
            directory.event("checkpoint_abandoned", step=each, moved_to=store.archive(each))
        directory.event("went_back", step=step, last_step=last, kept_in=str(kept_in))
        directory.mark_final()
        told = [describe(event) for event in directory.events()[-len(later) - 1 :]]
    for words in told:
        reporter.announce(str(words))
