"""A forecast of the largest trials from the smaller ones, registered before they begin and never written again."""

from collections.abc import Sequence

from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.studies.trial import Trial

FORECAST = "forecast.json"


def largest_of(trials: Sequence[Trial]) -> set[str]:
    """Return the trunks of the largest trials: of every architecture that with the most FLOPs, of every seed."""
    most: dict[str, float] = {}
    for trial in trials:
        if trial.role != "tuning":
            most[trial.architecture] = max(most.get(trial.architecture, 0.0), trial.train_flops)
    return {t.trunk for t in trials if t.role != "tuning" and t.train_flops == most[t.architecture]}


def register_forecast(directory: StudyDirectory) -> str:
    """Register."""
    return ""
