"""Which trials a submission is about."""

from collections.abc import Sequence

from sisa_scale.config.loading.strict import did_you_mean
from sisa_scale.errors import ConfigError
from sisa_scale.studies.state import TrialStatus
from sisa_scale.studies.trial import Trial
from sisa_scale.studies.tuning.optima import has_diverged


def check_names(only: Sequence[str], names: Sequence[str]) -> None:
    """Raise ConfigError for a name that no trial has."""
    for name in only:
        if name not in names:
            hint = did_you_mean(name, names)
            hint = hint if hint.startswith("Did") else "`sisa-scale study plan STUDY` lists them."
            raise ConfigError.at("trial", found=name, allowed="the name of a trial of the study", remedy=hint)


def select(
    trials: Sequence[Trial], states: Sequence[TrialStatus], only: Sequence[str]
) -> tuple[list[Trial], list[TrialStatus]]:
    """Return the trials to run, and those that failed and are left alone because nobody asked for them.

    Finished trials are never run again, nor tuning trials that diverged: these have said what there is to say.
    """
    by_name = {status.trial.name: status for status in states}
    chosen, left_out = [], []
    for trial in trials:
        status = by_name[trial.name]
        if status.state == "finished" or (only and trial.name not in only):
            continue
        if status.state == "failed" and trial.name not in only:
            if trial.role != "tuning" or not has_diverged(status):
                left_out.append(status)
        else:
            chosen.append(trial)
    return chosen, left_out
