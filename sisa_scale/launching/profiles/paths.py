"""`~` and variables in the paths of a profile: scripts quote what a profile says, so nothing replaces them later."""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sisa_scale.config.loading.yaml_source import Setting
from sisa_scale.errors import ConfigError

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+)|)")
_SAME_ON_EVERY_NODE = ("HOME", "USER", "LOGNAME")


def expand_paths(flat: dict[str, Setting], paths: Collection[str], node_paths: Collection[str]) -> None:
    """Replace `~` and variables in the settings named; raises ConfigError for what has no value."""
    for key in (*paths, *node_paths):
        if key in flat:
            allowed = _SAME_ON_EVERY_NODE if key in node_paths else None
            flat[key] = flat[key]._replace(value=_expanded(flat[key].value, f"{flat[key].origin}: {key}", allowed))
    venv = flat.get("venv")
    if "venv" in paths and venv is not None and isinstance(venv.value, str):
        flat["venv"] = venv._replace(value=str(Path(venv.value).absolute()))


def _home(text: str) -> str:
    return str(Path(text).expanduser()) if text.startswith("~") else text


def _expanded(value: Any, where: str, allowed: Collection[str] | None) -> Any:
    if isinstance(value, list | tuple):
        return [_expanded(item, where, allowed) for item in value]
    if not isinstance(value, str):
        return value

    def replace(found: re.Match[str]) -> str:
        name = found[1] or found[2] or ""
        if name in os.environ and (allowed is None or name in allowed):
            return os.environ[name]
        raise ConfigError.at(
            where,
            found=f"{found[0]} in {value!r}",
            allowed=f"{', '.join(f'${name}' for name in allowed)}: others differ from node to node"
            if allowed is not None
            else "a variable that is set here",
            remedy="Write the path out.",
        )

    return ":".join(_home(_VARIABLE.sub(replace, part)) for part in value.split(":"))
