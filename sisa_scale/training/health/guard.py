"""Refusing steps that would break the weights.

A step is judged by its mean loss and the norm of its gradient, on which all workers have agreed, before a weight
changes; all of them skip it or none. Its data is consumed and the schedule goes on. A few such steps are endured, then
the run goes back to its newest checkpoint, and after a few such rollbacks it ends (`training.hooks.rollback`).

A value that is not finite is always refused. A finite one is refused only if `guard.spike_deviations` is set: it must
stay below median + spike_deviations * s of the last accepted steps, where s = 1.4826 * (median of the absolute
deviations from the median), the standard deviation of a normal distribution that outliers cannot move
(Rousseeuw & Croux 1993), but at least 1 % of the median. It is off by default because it changes what is trained: of
two recipes that are compared, it would spare the one with more spikes.
"""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

from sisa_scale.config.reliability import GuardConfig
from sisa_scale.training.step import Refusal

_NORMAL = 1.4826
_LEAST_SPREAD = 0.01
MEASURES = ("loss", "gradient_norm")


class PastStep(NamedTuple):
    """What the guard remembers of a step; `step` counts from 1."""

    step: int
    loss: float
    gradient_norm: float
    was_skipped: bool


class NumericalGuard:
    """Judges steps by those before; equal histories give equal judgements, on every worker and after every resume.

    warmup_steps: the first steps, in which finite losses are never refused.
    """

    def __init__(self, settings: GuardConfig, warmup_steps: int) -> None:
        self.settings, self.warmup_steps = settings, warmup_steps
        self._accepted: dict[str, deque[float]] = {m: deque(maxlen=settings.spike_window_steps) for m in MEASURES}
        self._skipped: deque[int] = deque()
        self._in_a_row = 0

    @property
    def num_remembered(self) -> int:
        """How many of the last steps decide on the next one."""
        return self.settings.window_steps + self.settings.spike_window_steps

    @property
    def num_refused_in_a_row(self) -> int:
        """How many of the last steps were refused, up to the last one remembered."""
        return self._in_a_row

    def remember(self, steps: Iterable[PastStep]) -> None:
        """Take in steps, oldest first."""
        for past in steps:
            if past.was_skipped:
                self._skipped.append(past.step)
                self._in_a_row += 1
                continue
            self._in_a_row = 0
            for measure in MEASURES:
                self._accepted[measure].append(getattr(past, measure))

    def judge(self, step: int, loss: float, gradient_norm: float) -> Refusal | None:
        """Return why a step must not change the weights, or None."""
        for measure, value in zip(MEASURES, (loss, gradient_norm), strict=True):
            if not math.isfinite(value):
                return Refusal(measure, value, None)
        for measure, value in zip(MEASURES, (loss, gradient_norm), strict=True):
            threshold = self.threshold(step, measure)
            if threshold is not None and value > threshold:
                return Refusal(measure, value, threshold)
        return None

    def threshold(self, step: int, measure: str) -> float | None:
        """Return what the loss or gradient norm of a step must not exceed; None while too little is known."""
        factor, values = self.settings.spike_deviations, self._accepted[measure]
        if factor is None or step <= self.warmup_steps or len(values) < self.settings.spike_window_steps:
            return None
        middle = median(values)
        spread = max(_NORMAL * median(abs(value - middle) for value in values), _LEAST_SPREAD * abs(middle))
        return middle + factor * spread

    def exhausted(self, step: int) -> str | None:
        """Say which bound on skipped steps is exceeded at `step`, the last one remembered; None if none is."""
        while self._skipped and self._skipped[0] <= step - self.settings.window_steps:
            self._skipped.popleft()
        if self._in_a_row > self.settings.max_skipped_in_a_row:
            return f"more than guard.max_skipped_in_a_row {self.settings.max_skipped_in_a_row} bad steps in a row"
        if len(self._skipped) > self.settings.max_skipped:
            settings = self.settings
            return f"more than guard.max_skipped {settings.max_skipped} bad steps among {settings.window_steps}"
        return None
