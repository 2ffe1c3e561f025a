"""Section `model.rope`: how rotary positions are scaled for sequences beyond the length that was first trained."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sisa_scale.config.fields import Violation, setting

Scaling = Literal["none", "linear", "ntk", "yarn"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """A scaling with every number decided. attention_factor multiplies rotated queries and keys, both."""

    kind: Scaling
    factor: float
    original_length_tokens: int
    beta_fast: float
    beta_slow: float
    attention_factor: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeConfig:
    """The choice that a length beyond the trained one asks for, written out even if it is `none`.

    Positions of content channels alone are scaled. SISA's importance channels are rotated by learned phases that depend
    on the data, not on the position, and keep them.
    """

    scaling: Literal["none", "linear", "ntk", "yarn"] = setting(
        "none: no change beyond the trained length; linear: all frequencies divided by the factor "
        "(position interpolation, 2306.15595); ntk: the base times factor^(d_h / (d_h - 2)); yarn "
        "(2309.00071): slow frequencies divided, fast ones unchanged, logits sharpened"
    )
    factor: float | None = setting(
        "ratio of the new context to the original; null is max_length_tokens / original_length_tokens",
        default=None,
        minimum=1.0,
    )
    original_length_tokens: int | None = setting(
        "length at which the unscaled positions were trained; null is model.trained_length_tokens",
        default=None,
        minimum=2,
    )
    beta_fast: float = setting(
        "yarn: pairs with more turns than this within the original length keep their frequency",
        default=32.0,
        above=0.0,
    )
    beta_slow: float = setting(
        "yarn: pairs with fewer turns than this within the original length are divided by the factor",
        default=1.0,
        above=0.0,
    )
    attention_factor: float | None = setting(
        "yarn: factor sqrt(1/t) on rotated queries and keys, t the softmax's temperature; null is 0.1 ln(factor) + 1",
        default=None,
        above=0.0,
    )

    def resolve(self, max_length_tokens: int, trained_length_tokens: int) -> RopeScaling:
        """Return the scaling with defaults filled in from the model's lengths."""
        original = self.original_length_tokens or trained_length_tokens
        factor = 1.0 if self.scaling == "none" else self.factor or max(1.0, max_length_tokens / original)
        sharpening = 0.1 * math.log(factor) + 1.0 if self.attention_factor is None else self.attention_factor
        attention_factor = sharpening if self.scaling == "yarn" else 1.0
        return RopeScaling(self.scaling, factor, original, self.beta_fast, self.beta_slow, attention_factor)

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section: nothing is set that the kind of scaling does not read."""
        read = {"none": (), "linear": ("factor",), "ntk": ("factor",)}.get(self.scaling)
        for key in () if read is None else ("factor", "beta_fast", "beta_slow", "attention_factor"):
            default = type(self).__dataclass_fields__[key].default
            if key not in (read or ()) and getattr(self, key) != default:
                yield Violation(
                    key,
                    f"{getattr(self, key)} with scaling {self.scaling}",
                    f"scaling {self.scaling} reads {', '.join(read or ()) or 'no other setting'}",
                    "Leave it out, or choose scaling yarn.",
                )
        if self.beta_fast <= self.beta_slow:
            yield Violation(
                "beta_fast",
                str(self.beta_fast),
                f"must be above beta_slow {self.beta_slow}",
                "The usual pair is 32 and 1.",
            )

    def length_violations(self, max_length_tokens: int) -> Iterator[Violation]:
        """Rules between the section and the longest sequence."""
        original = self.original_length_tokens
        if original is not None and original > max_length_tokens:
            yield Violation(
                "rope.original_length_tokens",
                str(original),
                f"must be at most model.max_length_tokens {max_length_tokens}",
                "Leave it out for model.trained_length_tokens.",
            )
