"""What a study needs before anything is run: cost by estimate, what branches save, and the limit."""

from collections.abc import Sequence
from dataclasses import dataclass

from sisa_scale.config.study import CostConfig, StudyConfig
from sisa_scale.errors import ConfigError
from sisa_scale.planning.devices import gpu_named
from sisa_scale.planning.speed import plan_time
from sisa_scale.studies.trial import Piece

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


def cost_of(pieces: Sequence[Piece], settings: CostConfig) -> Cost:
    """Return what pieces cost: the time of their steps on the GPU or at the sustained rate, and an overhead for each.

    Raises ConfigError for a GPU that is not known.
    """
    hours = {piece.name: _hours(piece, settings) for piece in pieces}
    overhead = sum(settings.overhead_seconds * piece.workers for piece in pieces) / _HOUR
    return Cost(
        device_hours=overhead + sum(hours[piece.name] * piece.own_flops / piece.train_flops for piece in pieces),
        independent_device_hours=overhead + sum(hours.values()),
        flops=sum(piece.own_flops for piece in pieces),
        independent_flops=sum(piece.train_flops for piece in pieces),
    )


def _hours(piece: Piece, settings: CostConfig) -> float:
    """Return the device-hours of all steps of a run."""
    if settings.gpu is not None:
        return plan_time(piece.config, gpu_named(settings.gpu)).gpu_hours
    assert settings.sustained_flops_per_second is not None
    return piece.train_flops / settings.sustained_flops_per_second / _HOUR


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
