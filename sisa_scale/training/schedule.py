"""Learning rate as a pure function of the step, by the tokens of the steps before it."""

import math

from sisa_scale.config.run import RunConfig


class LearningRateSchedule:
    """Linear warm-up, then the shape of `schedule.kind`.

    Cosine (Loshchilov & Hutter 2017), linear, warmup-stable-decay (Hu et al. 2024), or the inverse square root of the
    step (Vaswani et al. 2017) with a final decay (Zhai et al. 2022). Each shape is a function of tokens:
    a ramp of the batch does not bend it.
    """

    def __init__(self, config: RunConfig) -> None:
        self.peak = config.optimizer.learning_rate
        self.kind, self.final_fraction = config.schedule.kind, config.schedule.final_fraction
        self.total_steps = config.total_steps
        self.warmup_steps = config.data.batches.steps(config.schedule.warmup)
        self.decay_steps = config.data.batches.final_steps(config.schedule.decay, self.total_steps)
        self._tokens_before = config.data.batches.tokens_before

    def learning_rate(self, step: int) -> float:
        """Return the rate of the optimizer step that follows `step` finished steps."""
        return self.peak * self._fraction(step)

    def has_decayed(self, step: int) -> bool:
        """Whether the rate after `step` finished steps is below the peak, after the warm-up."""
        return step > self.warmup_steps and self.learning_rate(step - 1) < 0.99 * self.peak

    def _fraction(self, step: int) -> float:
        if step < self.warmup_steps:
            return self._share(step + 1, 0, self.warmup_steps)
        if self.kind in ("cosine", "linear"):
            progress = min(1.0, self._share(step, self.warmup_steps, max(self.total_steps, self.warmup_steps + 1)))
            left = 1 - progress if self.kind == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
            return self.final_fraction + (1 - self.final_fraction) * left
        start = self.total_steps - self.decay_steps
        if step < start or not self.decay_steps:
            return self._undecayed(step)
        level = self._undecayed(start)
        return level - (level - min(level, self.final_fraction)) * min(1.0, self._share(step, start, self.total_steps))

    def _undecayed(self, step: int) -> float:
        """Return the fraction that the final decay begins from."""
        return 1.0 if self.kind == "wsd" else math.sqrt(self._share(max(1, self.warmup_steps), 0, step + 1))

    def _share(self, step: int, first: int, last: int) -> float:
        """Return which part of the tokens between two steps lies before a third."""
        begin = self._tokens_before(first)
        return (self._tokens_before(step) - begin) / (self._tokens_before(last) - begin)
