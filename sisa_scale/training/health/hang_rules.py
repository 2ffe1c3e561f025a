"""Rules of the watchdog: how long is too long, and who is to blame."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from statistics import median

from sisa_scale.config.reliability import WatchdogConfig
from sisa_scale.runs.diagnostics import Heartbeat

_QUICK = ("step", "data_wait")


def bound_seconds(settings: WatchdogConfig, phase: str, seconds: Sequence[float]) -> float:
    """Return how long a phase may take; seconds: how long it took the last times."""
    floor = settings.floor_seconds or 0.0
    if phase not in _QUICK:
        floor = max(floor, settings.slow_floor_seconds)
    if not seconds:
        return max(floor, settings.first_seconds)
    return max(floor, settings.median_factor * median(seconds))


def find_suspects(beats: Mapping[int, Heartbeat], silent: Collection[int]) -> tuple[list[int], str]:
    """Return the ranks that the others wait for, as far as their heartbeats tell, and why.

    beats: the newest of every rank that left one; silent: ranks that did not answer.
    """
    if silent:
        return sorted(silent), "gave no sign of life"
    last = max((beat.step for beat in beats.values()), default=0)
    behind = [rank for rank, beat in beats.items() if beat.step < last]
    if behind:
        return sorted(behind), f"still at step {min(beat.step for beat in beats.values())} of {last}"
    outside = [rank for rank, beat in beats.items() if not beat.in_collective]
    if 0 < len(outside) < len(beats):
        return sorted(outside), "not in a collective, where the others wait"
    phases = Counter(beat.phase for beat in beats.values())
    if len(phases) > 1:
        usual = phases.most_common(1)[0][0]
        others = sorted(rank for rank, beat in beats.items() if beat.phase != usual)
        return others, f"in phase {beats[others[0]].phase} while most are in {usual}"
    return [], "all ranks are in the same phase of the same step; see their stacks"
