"""Which trials a submission is about."""

from collections.abc import Sequence

from sisa_scale.config.loading.strict import did_you_mean
from sisa_scale.errors import ConfigError
from sisa_scale.studies.state import TrialStatus
from sisa_scale.studies.trial import Trial


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

    Finished trials are never run again.
    """
    by_name = {status.trial.name: status for status in states}
    chosen, left_out = [], []
    for trial in trials:
        status = by_name[trial.name]
        if status.state == "finished" or (only and trial.name not in only):
            continue
        if status.state == "failed" and trial.name not in only:
            left_out.append(status)
        else:
            chosen.append(trial)
    return chosen, left_out
