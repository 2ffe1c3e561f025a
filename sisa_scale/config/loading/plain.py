"""A single section from plain values, without the machinery of recipes."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from sisa_scale.config.fields import HasRules
from sisa_scale.config.loading.strict import coerce, section_class

Section = TypeVar("Section")


def section_from_plain(section: type[Section], plain: Mapping[str, Any]) -> Section:
    """Rebuild a section from what `to_plain` made of it; raises ValueError for unknown keys and broken rules."""
    assert dataclasses.is_dataclass(section)
    hints = typing.get_type_hints(section)
    unknown = sorted(plain.keys() - hints.keys())
    if unknown:
        raise ValueError(f"{section.__name__} has no setting {', '.join(unknown)}")
    values: dict[str, Any] = {}
    for name, value in plain.items():
        inner = section_class(hints[name])
        if inner is not None and isinstance(value, Mapping):
            values[name] = section_from_plain(inner, value)
        else:
            values[name] = coerce(value, hints[name]) if inner is None or value is not None else None
    built: Any = section(**values)
    if isinstance(built, HasRules):
        for violation in built.violations():
            raise ValueError(f"{violation.key}: found {violation.found}; {violation.allowed}")
    return typing.cast(Section, built)
