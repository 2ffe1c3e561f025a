"""A length of training in steps or tokens, written `500 steps` or `5e9 tokens`."""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

_PATTERN = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][0-9]+)?)\s*([KMBT]?)\s*(steps?|tokens?)\s*")
_SCALE = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class Duration:
    """An exact number of optimizer steps or of tokens."""

    count: int
    unit: Literal["steps", "tokens"]

    @classmethod
    def parse(cls, text: object) -> "Duration":
        """Read `500 steps`, `5e9 tokens` or `5B tokens`; raises ValueError with the accepted forms."""
        match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
        if not match:
            raise ValueError("a duration with its unit, such as '500 steps', '5e9 tokens' or '5B tokens'")
        number, scale, unit = match.groups()
        count = Decimal(number.replace("_", "")) * _SCALE[scale]
        if count != int(count):
            raise ValueError("a whole number of steps or tokens")
        return cls(int(count), "steps" if unit.startswith("step") else "tokens")

    def to_plain(self) -> str:
        """Return the duration as it stands in a recipe."""
        return str(self)

    def __str__(self) -> str:
        return f"{self.count} {self.unit}"
