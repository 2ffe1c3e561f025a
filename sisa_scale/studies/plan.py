"""What a study needs before anything is run: cost by estimate, what branches save, and the limit."""

from collections.abc import Sequence
from dataclasses import dataclass

from sisa_scale.config.study import CostConfig, StudyConfig
from sisa_scale.errors import ConfigError
from sisa_scale.planning.devices import gpu_named
from sisa_scale.planning.speed import plan_time
from sisa_scale.studies.trial import Trial

_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Device-hours by estimate. independent: of the same runs without branches."""

    device_hours: float
    independent_device_hours: float
    flops: float
    independent_flops: float

    @property
    def saved_share(self) -> float:
        """Share of the FLOPs of independent runs that branches save."""
        return 1 - self.flops / self.independent_flops


def cost_of(trials: Sequence[Trial], settings: CostConfig) -> Cost:
    """Return what trials cost: the time of their steps on the GPU or at the sustained rate, and an overhead for each.

    Raises ConfigError for a GPU that is not known.
    """
    hours = {trial.name: _hours(trial, settings) for trial in trials}
    overhead = sum(settings.overhead_seconds * trial.workers for trial in trials) / _HOUR
    return Cost(
        device_hours=overhead + sum(hours[trial.name] * trial.own_flops / trial.train_flops for trial in trials),
        independent_device_hours=overhead + sum(hours.values()),
        flops=sum(trial.own_flops for trial in trials),
        independent_flops=sum(trial.train_flops for trial in trials),
    )


def _hours(trial: Trial, settings: CostConfig) -> float:
    """Return the device-hours of all steps of a run."""
    if settings.gpu is not None:
        return plan_time(trial.config, gpu_named(settings.gpu)).gpu_hours
    assert settings.sustained_flops_per_second is not None
    return trial.train_flops / settings.sustained_flops_per_second / _HOUR


def check_budget(study: StudyConfig, cost: Cost) -> None:
    """Raise ConfigError where the estimate is beyond `cost.max_device_hours`."""
    limit = study.cost.max_device_hours
    if limit is not None and cost.device_hours > limit:
        saved = cost.independent_device_hours - cost.device_hours
        raise ConfigError.at(
            f"study {study.name}, cost.max_device_hours",
            found=f"a plan of {cost.device_hours:.3g} device-hours ({cost.flops:.3g} FLOPs; branches have "
            f"saved {saved:.3g} hours already)",
            allowed=f"at most {limit:g}",
            remedy="Take away sizes, budgets or seeds, or raise the limit.",
        )
