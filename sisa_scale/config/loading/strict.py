"""From plain YAML values to typed settings, without guessing: what does not fit is refused, never bent."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from sisa_scale.config.duration import Duration
from sisa_scale.config.fields import Parsed, Violation


class MismatchError(ValueError):
    """A value that does not fit its type; carries what would fit and what to do."""

    def __init__(self, allowed: str, remedy: str = "") -> None:
        self.allowed = allowed
        self.remedy = remedy
        super().__init__(allowed)


def did_you_mean(word: str, candidates: typing.Iterable[str]) -> str:
    """Return `Did you mean 'x'?` for the closest candidate, or a list of all of them."""
    names = list(candidates)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else f"Allowed: {', '.join(names)}."


def choice_violation(field: dataclasses.Field[Any], value: Any) -> Violation | None:
    """Compare a word, or every word of a tuple, with the choices of its field."""
    choices = field.metadata.get("choices")
    if choices is None or value is None:
        return None
    names = choices()
    for word in value if isinstance(value, tuple) else (value,):
        if word not in names:
            rule = f"must be one of {', '.join(names)}"
            return Violation(field.name, repr(value), rule, did_you_mean(word, names))
    return None


def section_class(hint: Any) -> type | None:
    """Return the dataclass behind a type hint that names a section (`X` or `X | None`), else None."""
    if typing.get_origin(hint) not in (None, typing.Union, types.UnionType):
        return None
    for option in typing.get_args(hint) or (hint,):
        if dataclasses.is_dataclass(option) and isinstance(option, type) and not issubclass(option, Parsed):
            return option
    return None


def table_class(hint: Any) -> type | None:
    """Return the dataclass behind a type hint that names a table of sections (`Mapping[str, X]`), else None."""
    return section_class(typing.get_args(hint)[1]) if typing.get_origin(hint) is Mapping else None


def coerce(value: Any, hint: Any) -> Any:
    """Return `value` as the type `hint` asks for; raises MismatchError. Only lossless changes (5e3 -> 5000)."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(value, arguments)
    if origin is Literal:
        return _coerce_literal(value, arguments)
    if origin is Mapping:
        if value != {}:
            raise MismatchError("must be a table of sections", "Write name: {...} below it.")
        return {}
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise MismatchError("must be a list", "Write [a, b].")
        return tuple(coerce(item, arguments[0]) for item in value)
    if isinstance(hint, type) and issubclass(hint, Parsed):
        try:
            return hint.parse(value)
        except ValueError as error:
            is_bare = hint is Duration and isinstance(value, int)
            remedy = f"Write '{value} steps' or '{value} tokens'." if is_bare else ""
            raise MismatchError(f"must be {error}", remedy) from None
    return _coerce_scalar(value, hint)


def _coerce_scalar(value: Any, hint: Any) -> Any:
    if isinstance(value, bool) or hint is bool:
        if hint is bool and isinstance(value, bool):
            return value
        raise MismatchError("must be true or false" if hint is bool else f"must be {_name(hint)}")
    if hint is float and isinstance(value, int | float):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, hint):
        return value
    raise MismatchError(f"must be {_name(hint)}", "Quote it." if hint is str and value is not None else "")


def _coerce_literal(value: Any, options: tuple[Any, ...]) -> Any:
    for option in options:
        if value == option and type(value) is type(option):
            return option
    listed = ", ".join(str(option) for option in options)
    raise MismatchError(f"must be one of {listed}", did_you_mean(str(value), map(str, options)))


def _coerce_union(value: Any, options: tuple[Any, ...]) -> Any:
    if value is None and type(None) in options:
        return None
    mismatches = []
    for option in options:
        if option is not type(None):
            try:
                return coerce(value, option)
            except MismatchError as mismatch:
                mismatches.append(mismatch)
    rules = [m.allowed for m in mismatches] + (["must be null"] if type(None) in options else [])
    raise MismatchError(" or ".join(rules), " ".join(m.remedy for m in mismatches if m.remedy))


def _name(hint: Any) -> str:
    return {int: "a whole number", float: "a number", str: "text"}.get(hint, str(hint))
