"""Peak learning rates of a study: stated at a width, or tuned by trials, and carried to other widths and lengths."""

from collections.abc import Iterator
from dataclasses import dataclass

from sisa_scale.config.fields import Violation, setting

MIN_RATES = 3  # of a parabola


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningPoint:
    """Where rates are tuned: one size and one length."""

    size: str = setting("name of the size of the tuning trials")
    tokens: int = setting("training tokens of each tuning trial", minimum=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningRateRule:
    """Peak learning rate = value x (at_d_model / d_model) ^ exponent x (at_tokens / tokens) ^ tokens_exponent.

    With `sweep` the value is the optimum of tuning trials, of each architecture its own; `at` says width and tokens.
    """

    value: float | None = setting("peak learning rate at the width at_d_model", default=None, above=0.0)
    at_d_model: int | None = setting("width at which value applies", default=None, minimum=1)
    at_tokens: int | None = setting("tokens at which value applies; tokens_exponent needs it", default=None, minimum=1)
    sweep: tuple[float, ...] = setting(
        "instead of value: rates of tuning trials, run first; a parabola in the log of the rate gives the value",
        default=(),
        above=0.0,
    )
    at: TuningPoint | None = setting("size and tokens of the tuning trials", default=None)
    seeds: int = setting("tuning trials of each rate, with seeds 0, 1, ...", default=1, minimum=1)
    exponent: float = setting(
        "the rate scales with width^-exponent: 0 keeps it, 1 halves it when the width doubles", default=0.0
    )
    tokens_exponent: float = setting(
        "the rate scales with tokens^-tokens_exponent, of a branch with those of its trunk; 0 keeps it", default=0.0
    )

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        if (self.value is None) != bool(self.sweep):
            found = "both" if self.sweep else "neither"
            yield Violation("value", found, "the rate is stated by value or tuned by sweep", "Write one of the two.")
            return
        if self.sweep:
            yield from sweep_violations("sweep", self.sweep)
            for key in ("at_d_model", "at_tokens"):
                if getattr(self, key) is not None:
                    yield Violation(key, str(getattr(self, key)), "a tuned rate applies where `at` says", "Remove it.")
            if self.at is None:
                yield Violation("at", "nothing", "a sweep says where it is made", "Write at: {size: S, tokens: N}.")
            return
        if self.at is not None or self.seeds != 1:
            key = "seeds" if self.at is None else "at"
            yield Violation(key, str(getattr(self, key)), "belongs to a sweep", "Remove it, or write sweep for value.")
        if self.at_d_model is None:
            yield Violation("at_d_model", "nothing", "a stated rate applies at a width", "Write at_d_model.")
        if self.at_tokens is None and self.tokens_exponent != 0:
            yield Violation("at_tokens", "nothing", "tokens_exponent carries the rate from there", "Write at_tokens.")


def sweep_violations(key: str, rates: tuple[float, ...]) -> Iterator[Violation]:
    """Rules of the rates of a sweep."""
    distinct = {float(f"{rate:.6g}") for rate in rates}
    if len(distinct) < MIN_RATES or len(distinct) < len(rates):
        listed = ", ".join(f"{rate:g}" for rate in rates)
        yield Violation(
            key, f"[{listed}]", f"a parabola needs {MIN_RATES} or more different rates", "Write them each once."
        )
