"""YAML with places: every value keeps the file and line it came from; duplicate keys are errors."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sisa_scale.errors import ConfigError
from sisa_scale.resources import find_recipe

Find = Callable[[str], Path]


class Setting(NamedTuple):
    """A value and where it was set: `file:line`, `override`, or `default`."""

    value: Any
    origin: str


class _CoreLoader(yaml.SafeLoader):
    """YAML 1.2's reading of scalars: `3e-4` is a number, `on`, `off`, `yes`, `no` and `1:30` are text."""


class _CoreDumper(yaml.SafeDumper):
    """Quotes what `_CoreLoader` would not read as text."""


_CoreLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
_CoreLoader.yaml_implicit_resolvers.setdefault("", []).append(("tag:yaml.org,2002:null", re.compile("^$")))
_CoreDumper.yaml_implicit_resolvers = _CoreLoader.yaml_implicit_resolvers
# What reading a scalar can raise: a broken document, `!!int x`, a number of thousands of digits, a loop of aliases.
UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)


def _construct_int(loader: _CoreLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node).replace("_", ""))


_CoreLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def dump(value: Any) -> str:
    """Return plain values as YAML that reads back to the same values."""
    return yaml.dump(value, Dumper=_CoreDumper, sort_keys=False, allow_unicode=False, width=100)


def parse_scalar(text: str) -> Any:
    """Read the value of a `key=value` override as YAML would."""
    return yaml.load(text, _CoreLoader)


def read_settings(path: Path, find: Find = find_recipe) -> dict[str, Setting]:
    """Return the settings of a recipe by dotted key, those of the recipes it extends first (later ones win).

    find: turns a name that is no file, such as that of a shipped recipe, into a path.

    Raises ConfigError for a missing file, broken YAML, a duplicate key, or a circle of `extends`.
    """
    return _read(path, (), find)


def _read(path: Path, ancestors: tuple[Path, ...], find: Find) -> dict[str, Setting]:
    path = find(str(path))
    if path.resolve() in ancestors:
        raise ConfigError.at(
            path, found="a circle of extends", allowed="a recipe may not extend itself", remedy="Remove one."
        )
    try:
        loader = _CoreLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
    except FileNotFoundError:
        raise ConfigError.at(
            path,
            found="no such file",
            allowed="a recipe is a YAML file or the name of a shipped recipe",
            remedy="Check the path.",
        ) from None
    except (OSError, *UNREADABLE) as error:
        raise _unreadable(path, error) from error
    own: dict[str, Setting] = {}
    try:
        if root is not None:
            _flatten(loader, root, path, "", own)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    settings: dict[str, Setting] = {}
    extends = own.pop("extends", None)
    if extends is not None and extends.value is not None:
        bases = extends.value if isinstance(extends.value, list) else [extends.value]
        for base in bases:
            beside = path.parent / str(base)
            source = beside if beside.is_file() else Path(str(base))
            merge(settings, _read(source, (*ancestors, path.resolve()), find))
    merge(settings, own)
    return settings


def _unreadable(path: Path, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())
    return ConfigError.at(
        path, found=f"unreadable YAML ({reason})", allowed="a recipe is a YAML file", remedy="Mend it."
    )


def _flatten(loader: _CoreLoader, node: yaml.Node, path: Path, prefix: str, out: dict[str, Setting]) -> None:
    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1
        if not prefix:
            raise ConfigError.at(
                f"{path}:{line}",
                found="no mapping",
                allowed="a recipe is a mapping of settings",
                remedy="Write key: value.",
            )
        out[prefix] = Setting(loader.construct_object(node, deep=True), f"{path}:{line}")
        return
    if prefix and not node.value:
        out[prefix] = Setting({}, f"{path}:{node.start_mark.line + 1}")
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        dotted = f"{prefix}.{key}" if prefix else key
        if key in lines:
            raise ConfigError.at(
                f"{path}:{line}",
                found=f"{dotted} again, first set on line {lines[key]}",
                allowed="a key may be set once in a file",
                remedy="Remove one of the two lines.",
            )
        lines[key] = line
        _flatten(loader, value_node, path, dotted, out)


def flatten_plain(prefix: str, value: Any, origin: str) -> dict[str, Setting]:
    """Return the settings by dotted key that a plain value, nested or not, holds."""
    if not isinstance(value, dict) or (prefix and not value):
        return {prefix: Setting(value, origin)}
    flat: dict[str, Setting] = {}
    for key, inner in value.items():
        flat |= flatten_plain(f"{prefix}.{key}" if prefix else str(key), inner, origin)
    return flat


def merge(settings: dict[str, Setting], later: dict[str, Setting]) -> None:
    """Lay `later` over `settings`; `section: null` clears a section, a key below it or `section: {}` brings it back."""
    for key, setting in later.items():
        if setting.value == {} and any(old.startswith(key + ".") for old in settings):
            continue
        for old in [k for k in settings if k.startswith(key + ".") or key.startswith(k + ".")]:
            del settings[old]
        settings[key] = setting
