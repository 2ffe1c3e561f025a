"""Size and place of every step's global batch, also while it grows: arithmetic on `data`, for all who ask."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sisa_scale.config.duration import Duration


@dataclass(frozen=True, slots=True)
class RampStage:
    """A smaller global batch up to a point of the run: `{until: 1B tokens, global_batch_tokens: 131072}`."""

    until: Duration
    global_batch_tokens: int

    @classmethod
    def parse(cls, value: object) -> "RampStage":
        """Read the mapping of a recipe; raises ValueError with the accepted form."""
        if not isinstance(value, dict) or value.keys() != {"until", "global_batch_tokens"}:
            raise ValueError("a mapping such as {until: 1B tokens, global_batch_tokens: 131072}")
        tokens = value["global_batch_tokens"]
        if isinstance(tokens, bool) or not isinstance(tokens, int | float) or tokens < 1 or tokens != int(tokens):
            raise ValueError(f"a mapping whose global_batch_tokens is a whole number of tokens, not {tokens!r}")
        return cls(Duration.parse(value["until"]), int(tokens))

    def to_plain(self) -> dict[str, Any]:
        """Return the mapping as it stands in a recipe."""
        return {"until": self.until.to_plain(), "global_batch_tokens": self.global_batch_tokens}


class GlobalBatches:
    """The global batches of all steps, both counted from 0: step s has what follows the batches of the steps before it.

    A stage of a ramp has all whole steps that fit before its end, so the sum of the batches before a step is one
    multiplication and one addition, wherever a run is resumed. first_steps: of the stages; tokens: of a batch of each.
    """

    def __init__(self, sequence_tokens: int, global_batch_tokens: int, ramp: Sequence[RampStage] = ()) -> None:
        self.sequence_tokens = sequence_tokens
        self.stage_tokens = (*(stage.global_batch_tokens for stage in ramp), global_batch_tokens)
        self.first_steps, self._first_tokens = [0], [0]
        for stage in ramp:
            step, tokens, until = self.first_steps[-1], self._first_tokens[-1], stage.until
            size = stage.global_batch_tokens
            end = until.count if until.unit == "steps" else step + (until.count - tokens) // size
            self.first_steps.append(end)
            self._first_tokens.append(tokens + (end - step) * size)

    def tokens(self, step: int) -> int:
        """Return the tokens of the batch of a step."""
        return self.stage_tokens[self._stage(step)]

    def tokens_before(self, step: int) -> int:
        """Return the tokens of all batches before a step."""
        stage = self._stage(step)
        return self._first_tokens[stage] + (step - self.first_steps[stage]) * self.stage_tokens[stage]

    def sequences(self, step: int) -> int:
        """Return the sequences of the batch of a step."""
        return self.tokens(step) // self.sequence_tokens

    def sequences_before(self, step: int) -> int:
        """Return the sequences of all batches before a step."""
        return self.tokens_before(step) // self.sequence_tokens

    def positions(self, step: int) -> range:
        """Return the places of a step's sequences in the stream of the run."""
        first = self.sequences_before(step)
        return range(first, first + self.sequences(step))

    def steps(self, duration: Duration) -> int:
        """Return the whole steps from the first on that a duration has; no step is ever half taken."""
        return duration.count if duration.unit == "steps" else self.steps_within(duration.count)

    def steps_within(self, tokens: int) -> int:
        """Return the most steps that have at most so many tokens."""
        stage = max(0, bisect_right(self._first_tokens, tokens) - 1)
        return self.first_steps[stage] + (tokens - self._first_tokens[stage]) // self.stage_tokens[stage]

    def nearest_steps(self, tokens: float) -> int:
        """Return the steps whose tokens are nearest to so many."""
        stage = max(0, bisect_right(self._first_tokens, tokens) - 1)
        return self.first_steps[stage] + round((tokens - self._first_tokens[stage]) / self.stage_tokens[stage])

    def final_steps(self, duration: Duration, total_steps: int) -> int:
        """Return the whole steps at the end of `total_steps` that a duration has."""
        if duration.unit == "steps":
            return duration.count
        begin = self.tokens_before(total_steps) - duration.count
        return total_steps + self.steps_within(-begin) if begin <= 0 else total_steps - self.steps_within(begin - 1) - 1

    def _stage(self, step: int) -> int:
        return max(0, bisect_right(self.first_steps, step) - 1)
