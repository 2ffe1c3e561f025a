"""How a setting is declared: a dataclass field that knows its meaning and its bounds."""

import dataclasses
import functools
import math
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
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
    choices: Callable[[], Collection[str]] | None = None,
    sections: Callable[[], Mapping[str, type]] | None = None,
) -> Any:
    """Declare a setting: its meaning with unit, its default, and its inclusive (or, for `above`, exclusive) bounds.

    choices: the words that a table allows; sections: see `settings_of`.
    """
    bounds = {"minimum": minimum, "maximum": maximum, "above": above}
    metadata = {"doc": doc, **bounds, "choices": choices, "sections": sections}
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
    return (
        Violation(field.name, repr(value), broken, f"Choose another value: {field.metadata['doc']}.")
        if broken
        else None
    )


def settings_of(section: type) -> list[dataclasses.Field[Any]]:
    """Return the settings of a section in order, with their types.

    In the place of a field declared with `sections` stand the sections that a table names, each optional.
    """
    hints, found = _hints(section), []
    for field in dataclasses.fields(section):
        table = field.metadata.get("sections")
        for name, inner in table().items() if table else ():
            row: Any = dataclasses.field(default=None, metadata={"doc": f"{name} blocks"})
            row.name, row.type = name, typing.Optional[inner]  # noqa: UP045 - of a value
            found.append(row)
        if not table:
            field.type = hints[field.name]
            found.append(field)
    return found


@functools.cache
def _hints(section: type) -> dict[str, Any]:
    """Return the types of the fields of a section; every override of a recipe asks for those of all sections."""
    return typing.get_type_hints(section)


def section_of(section: type, values: Mapping[str, Any]) -> Any:
    """Return a section of the values of its settings, by the names that `settings_of` gives."""
    values = dict(values)
    for field in dataclasses.fields(section):
        if table := field.metadata.get("sections"):
            written = (values.pop(name, None) for name in table())
            values[field.name] = tuple(inner for inner in written if inner is not None)
    return section(**values)


def values_of(section: Any) -> dict[str, Any]:
    """Return the settings of a section by name, the inverse of `section_of`; sections of a table where they are."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if table := field.metadata.get("sections"):
            names = {inner: name for name, inner in table().items()}
            values |= {names[type(inner)]: inner for inner in value}
        else:
            values[field.name] = value
    return values
