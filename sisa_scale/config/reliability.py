"""Sections `guard` and `watchdog`: when a step is refused, and when a worker counts as hung. May change on resume."""

from dataclasses import dataclass
from typing import Literal

from sisa_scale.config.fields import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardConfig:
    """What happens at a loss or gradient that is not finite, or that jumps: the step is skipped, then rolled back."""

    max_skipped_in_a_row: int = setting("most consecutive skipped steps; one more rolls back", default=3, minimum=0)
    max_skipped: int = setting(
        "most skipped steps within guard.window_steps; one more rolls back", default=10, minimum=0
    )
    window_steps: int = setting("steps over which skipped steps and rollbacks are counted", default=1000, minimum=1)
    spike_deviations: float | None = setting(
        "a finite loss or gradient norm this many robust standard deviations above the recent median is "
        "skipped as a spike; null skips no finite step",
        default=None,
        above=0,
    )
    spike_window_steps: int = setting("number of recent accepted steps in that median", default=128, minimum=8)
    after_rollback: Literal["retry", "skip_data"] = setting(
        "'retry' repeats the bad steps, 'skip_data' skips their data", default="retry"
    )
    max_rollbacks: int = setting(
        "most rollbacks within guard.window_steps; one more ends the run with an error; 0 never rolls back",
        default=2,
        minimum=0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchdogConfig:
    """How long a worker may take for what it does before it counts as hung."""

    floor_seconds: float | None = setting(
        "smallest time limit of a step or a wait for data, and longest silence of a worker; null turns "
        "the watchdog off",
        default=50.0,
        above=0,
    )
    slow_floor_seconds: float = setting("smallest time limit of a save or an evaluation", default=300.0, above=0)
    median_factor: float = setting("time limit as a multiple of the recent median", default=2.0, minimum=1)
    first_seconds: float = setting(
        "time limit of first times in an attempt: start, restore, first step with compilation",
        default=1800.0,
        above=0,
    )
