"""Recipe + overrides -> RunConfig, with the origin of every value and all problems at once."""

import dataclasses
import difflib
import typing
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from sisa_scale.config.fields import HasRules, Violation, bounds_violation, section_of, settings_of
from sisa_scale.config.loading.strict import (
    MismatchError,
    choice_violation,
    coerce,
    did_you_mean,
    section_class,
    table_class,
)
from sisa_scale.config.loading.yaml_source import (
    UNREADABLE,
    Setting,
    dump,
    flatten_plain,
    merge,
    parse_scalar,
    read_settings,
)
from sisa_scale.config.run import RunConfig, to_plain
from sisa_scale.errors import ConfigError, Problem

SOLVED = "solved from twin_of"
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A resolved run and, for every dotted key, where its value was set."""

    config: RunConfig
    origins: dict[str, str]


def load_config(recipe: str | Path, overrides: Iterable[str] = ()) -> LoadedConfig:
    """Read a recipe (a path, or the name of a shipped one) and apply `key=value` overrides.

    A key may be shortened to any ending that is unique (`zero_stage=2` for `execution.zero_stage=2`).
    Raises ConfigError that lists every problem found.
    """
    settings = read_settings(Path(recipe))
    for override in overrides:
        merge(settings, parse_override(override))
    return resolve(settings)


def resolve(settings: dict[str, Setting]) -> LoadedConfig:
    """Build the RunConfig from flat settings; raises ConfigError that lists every problem found."""
    known = known_fields(settings)
    if _is_to_be_solved(settings):
        settings = {**settings, "model.d_ff": Setting(0, SOLVED)}  # a placeholder for planning.twins
    sections = {key for key, field in known.items() if section_class(_hint(field))}
    problems = [_unknown(key, setting, known) for key, setting in settings.items() if key not in known]
    usable = {key: setting for key, setting in settings.items() if key in known}
    built = _build(RunConfig, "", usable, sections, problems)
    if problems:
        raise ConfigError.many(problems)
    origins = {key: usable[key].origin if key in usable else "default" for key in known if key not in sections}
    return LoadedConfig(built, origins)


def resolve_section(section: type[S], settings: dict[str, Setting], noun: str) -> S:
    """Build another dataclass of settings as strictly as a run; `noun` is what errors call the file."""
    known = known_fields(settings, section)
    sections = {key for key, field in known.items() if section_class(_hint(field))}
    problems = [_unknown(key, setting, known, noun) for key, setting in settings.items() if key not in known]
    built = _build(section, "", {k: v for k, v in settings.items() if k in known}, sections, problems, noun)
    if problems:
        raise ConfigError.many(problems)
    return cast(S, built)


def config_from_plain(plain: dict[str, Any], origin: str) -> RunConfig:
    """Rebuild a config from what `to_plain` made of it; `origin` says in errors where it came from."""
    return resolve(flatten_plain("", plain, origin)).config


def walk_fields(section: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Yield (dotted key, field) of a section and the sections inside it, in order of declaration."""
    for field in settings_of(section):
        key = f"{prefix}.{field.name}" if prefix else field.name
        yield key, field
        inner = section_class(_hint(field))
        if inner is not None:
            yield from walk_fields(inner, key)


def known_fields(keys: Collection[str], root: type = RunConfig) -> dict[str, dataclasses.Field[Any]]:
    """Return every field of a run by dotted key, with those of the sections that `keys` put into tables.

    root: another dataclass of settings than that of runs.
    """
    expanded = {}
    for key, field in walk_fields(root):
        expanded[key] = field
        row = table_class(_hint(field))
        if row is None:
            continue
        for name in _table_names(key, keys):
            section = expanded[f"{key}.{name}"] = dataclasses.field(metadata={"doc": f"a section of {key}"})
            section.type = row
            expanded |= dict(walk_fields(row, f"{key}.{name}"))
    return expanded


def _table_names(table: str, keys: Collection[str]) -> list[str]:
    """Return the names of the sections that `keys` put into a table."""
    return list(dict.fromkeys(key[len(table) + 1 :].partition(".")[0] for key in keys if key.startswith(table + ".")))


def dump_yaml(config: RunConfig) -> str:
    """Return a resolved config as YAML that loads back to the same config."""
    return dump(to_plain(config))


def _is_to_be_solved(settings: dict[str, Setting]) -> bool:
    """Whether d_ff is left to the solver: a twin whose d_ff is not given beside `twin_of` or as an override."""
    twin_of, d_ff = settings.get("twin_of"), settings.get("model.d_ff")
    if twin_of is None or twin_of.value is None:
        return False
    return d_ff is None or not (d_ff.origin.startswith("override") or _file(d_ff.origin) == _file(twin_of.origin))


def _file(origin: str) -> str:
    file, _, line = origin.rpartition(":")
    return file if line.isdigit() else origin


def _hint(field: dataclasses.Field[Any]) -> Any:
    return field.type


def parse_override(text: str, root: type = RunConfig) -> dict[str, Setting]:
    """Return the settings of one `key=value` for a run, or for `root`; raises ConfigError for an unreadable one."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError.at(
            "override", found=repr(text), allowed="overrides have the form key=value", remedy="Write key=value."
        )
    try:
        parsed = parse_scalar(value)
    except UNREADABLE:
        raise ConfigError.at(
            f"override {text!r}", found="unreadable YAML", allowed="a value is YAML", remedy="Quote it."
        ) from None
    return flatten_plain(_full_key(key.strip(), text, root), parsed, f"override {text!r}")


def _full_key(key: str, text: str, root: type) -> str:
    known = [name for name, _ in walk_fields(root)]
    if key in known:
        return key
    matches = [name for name in known if name.endswith("." + key)]
    if len(matches) > 1:
        raise ConfigError.at(
            f"override {text!r}",
            found=f"{key!r}, which is short for several keys",
            allowed=", ".join(matches),
            remedy="Write one in full.",
        )
    return matches[0] if matches else key


def _unknown(key: str, setting: Setting, known: dict[str, dataclasses.Field[Any]], noun: str = "recipe") -> Problem:
    parent = key.rpartition(".")[0]
    while parent and parent not in known:
        key, parent = parent, parent.rpartition(".")[0]
    if parent and not section_class(_hint(known[parent])):
        return Problem(f"{setting.origin} {parent}", "a mapping", "must be a single value", f"Write {parent}: value.")
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    leaf, leaves = key.rpartition(".")[2], [name.rpartition(".")[2] for name in siblings]
    hint = did_you_mean(leaf, leaves)
    if not hint.startswith("Did"):
        endings = {name.rpartition(".")[2]: name for name in known}
        close = difflib.get_close_matches(leaf, endings, n=1, cutoff=0.7)
        hint = f"Did you mean {endings[close[0]]!r}?" if close else hint
    return Problem(
        f"{setting.origin} {key}", "an unknown key", f"section {parent or f'of the {noun}'} has no {leaf!r}", hint
    )


def _build(
    section: type,
    prefix: str,
    settings: dict[str, Setting],
    sections: set[str],
    problems: list[Problem],
    noun: str = "recipe",
) -> Any:
    before = len(problems)
    values: dict[str, Any] = {}
    for field in settings_of(section):
        key = f"{prefix}.{field.name}" if prefix else field.name
        inner = section_class(_hint(field))
        is_set = key in settings or any(name.startswith(key + ".") for name in settings)
        row = table_class(_hint(field))
        if row is not None and key not in settings:
            values[field.name] = _build_table(row, key, settings, sections, problems)
        elif inner is not None and is_set and (key not in settings or settings[key].value == {}):
            values[field.name] = _build(inner, key, settings, sections, problems, noun)
        elif is_set:
            values[field.name] = _value(key, field, settings[key], inner, problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            if inner is not None:
                values[field.name] = _build(inner, key, settings, sections, problems, noun)
            else:
                problems.append(Problem(f"{noun} {key}", "nothing", f"needs {field.metadata['doc']}", f"Set {key}."))
    if len(problems) > before:
        return None
    built = section_of(section, values)
    if isinstance(built, HasRules):
        problems.extend(_problem(prefix, violation, settings) for violation in built.violations())
    return built


def _build_table(
    row: type, key: str, settings: dict[str, Setting], sections: set[str], problems: list[Problem]
) -> dict[str, Any]:
    rows = {}
    for name in _table_names(key, settings):
        own = settings.get(f"{key}.{name}")
        if own is not None and own.value != {}:
            remedy = f"Write the settings of {key}.{name} below it."
            problems.append(Problem(f"{own.origin} {key}.{name}", repr(own.value), "must be a section", remedy))
        else:
            rows[name] = _build(row, f"{key}.{name}", settings, sections, problems)
    return rows


def _value(
    key: str, field: dataclasses.Field[Any], setting: Setting, inner: type | None, problems: list[Problem]
) -> Any:
    place = f"{setting.origin} {key}"
    if inner is not None and not (setting.value is None and type(None) in typing.get_args(_hint(field))):
        problems.append(
            Problem(place, repr(setting.value), "must be a section", f"Write the settings of {key} below it.")
        )
        return None
    try:
        value = coerce(setting.value, _hint(field))
    except MismatchError as mismatch:
        remedy = mismatch.remedy or f"Give {field.metadata['doc']}."
        problems.append(Problem(place, repr(setting.value), mismatch.allowed, remedy))
        return None
    violation = bounds_violation(field, value) or choice_violation(field, value)
    if violation:
        problems.append(Problem(place, *violation[1:]))
    return value


def _problem(prefix: str, violation: Violation, settings: dict[str, Setting]) -> Problem:
    key = f"{prefix}.{violation.key}" if prefix else violation.key
    origin = settings[key].origin if key in settings else "default"
    return Problem(f"{origin} {key}", *violation[1:])
