"""How a setting is declared: a dataclass field that knows its meaning and its bounds."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import MISSING
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable


class Violation(NamedTuple):
    """A rule that a value breaks; `key` is relative to the section that reports it."""

    key: str
    found: str
    allowed: str
    remedy: str


@runtime_checkable
class HasRules(Protocol):
    """A section with rules that no single field can state."""

    def violations(self) -> Iterator[Violation]:
        """Yield every broken rule."""
        ...


@runtime_checkable
class Parsed(Protocol):
    """A value that is read from, and written to, plain YAML as a whole."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read it; raises ValueError with the accepted forms."""
        ...

    def to_plain(self) -> Any:
        """Return it as it stands in a recipe."""
        ...


def setting(
    doc: str,
    *,
    default: Any = MISSING,
    default_factory: Callable[[], Any] | Any = MISSING,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
) -> Any:
    """Declare a setting: its meaning with unit, its default, and its inclusive (or, for `above`, exclusive) bounds."""
    metadata = {"doc": doc, "minimum": minimum, "maximum": maximum, "above": above}
    if default_factory is not MISSING:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def bounds_violation(field: dataclasses.Field[Any], value: Any) -> Violation | None:
    """Compare a number, or every number of a tuple, with the bounds of its field."""
    numbers = [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, int | float)]
    low, high, above = (field.metadata.get(name) for name in ("minimum", "maximum", "above"))
    rules = [
        (not all(math.isfinite(n) for n in numbers), "must be finite"),
        (low is not None and any(n < low for n in numbers), f"must be at least {low}"),
        (high is not None and any(n > high for n in numbers), f"must be at most {high}"),
        (above is not None and any(n <= above for n in numbers), f"must be greater than {above}"),
    ]
    broken = " and ".join(text for is_broken, text in rules if is_broken)
    return Violation(field.name, repr(value), broken, f"Give {field.metadata['doc']}.") if broken else None
