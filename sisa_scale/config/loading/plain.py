"""A single section from plain values, without the machinery of recipes."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from sisa_scale.config.fields import HasRules, section_of, settings_of
from sisa_scale.config.loading.strict import choice_violation, coerce, section_class

Section = TypeVar("Section")


def section_from_plain(section: type[Section], plain: Mapping[str, Any]) -> Section:
    """Rebuild a section from what `to_plain` made of it; raises ValueError for unknown keys and broken rules."""
    assert dataclasses.is_dataclass(section)
    fields = {field.name: field for field in settings_of(section)}
    unknown = sorted(plain.keys() - fields.keys())
    if unknown:
        raise ValueError(f"{section.__name__} has no setting {', '.join(unknown)}")
    values: dict[str, Any] = {}
    for name, value in plain.items():
        inner = section_class(fields[name].type)
        if inner is not None and isinstance(value, Mapping):
            values[name] = section_from_plain(inner, value)
        else:
            values[name] = coerce(value, fields[name].type) if inner is None or value is not None else None
        if broken := choice_violation(fields[name], values[name]):
            raise ValueError(f"{name}: found {broken.found}; {broken.allowed}")
    built: Any = section_of(section, values)
    if isinstance(built, HasRules):
        for violation in built.violations():
            raise ValueError(f"{violation.key}: found {violation.found}; {violation.allowed}")
    return typing.cast(Section, built)
