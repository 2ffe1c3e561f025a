"""Reading a profile: YAML as strict as recipes, of the class that the table of launchers names.

`cluster/<target>/<name>.yaml`, or a file of the user's own that may `extends: <name>`.
"""

from collections.abc import Iterable
from pathlib import Path

from sisa_scale.config.loading.load import resolve_section
from sisa_scale.config.loading.strict import did_you_mean
from sisa_scale.config.loading.yaml_source import UNREADABLE, Setting, flatten_plain, merge, parse_scalar, read_settings
from sisa_scale.errors import ConfigError
from sisa_scale.launching.profiles.paths import expand_paths
from sisa_scale.launching.profiles.profile import Profile
from sisa_scale.launching.registry import LAUNCHERS
from sisa_scale.resources import resource_root


def load_profile(target: str, name: str | None, settings: Iterable[str] = ()) -> Profile:
    """Read a profile: a file, or the name of a shipped one (the target's only one may be left out).

    settings: `key=value` that go before the file's. Raises ConfigError that lists every problem found.
    """
    shipped = shipped_profiles(target)
    if name is None:
        if len(shipped) != 1:
            raise ConfigError.at(
                "--profile",
                found="nothing",
                allowed=f"{target} has {', '.join(shipped) or 'none of its own'}, or a file of your own",
                remedy="Name one.",
            )
        name = next(iter(shipped))

    def find(wanted: str) -> Path:
        own = Path(wanted)
        return own if own.is_file() else shipped.get(wanted, own)

    if not find(name).is_file():
        raise ConfigError.at(
            f"--profile {name}",
            found="no such file and no such name",
            allowed=f"a YAML file, or for {target}: {', '.join(shipped)}",
            remedy=did_you_mean(name, shipped),
        )
    flat = read_settings(Path(name), find)
    for text in settings:
        merge(flat, _parse(text))
    _check_target(target, name, flat)
    kind = LAUNCHERS[target].profile
    expand_paths(flat, kind.paths, kind.node_paths)
    return resolve_section(kind, flat, "profile")


def shipped_profiles(target: str) -> dict[str, Path]:
    """Return the profiles that come with the package, by name."""
    return {path.stem: path for path in sorted((resource_root("cluster") / target).glob("*.yaml"))}


def _check_target(target: str, name: str, flat: dict[str, Setting]) -> None:
    found = flat.get("target")
    if found is None or found.value != target:
        raise ConfigError.at(
            name if found is None else found.origin,
            found="no target" if found is None else f"target: {found.value}",
            allowed=f"a profile for --to {target} says target: {target}",
            remedy="Choose another profile or another target.",
        )


def _parse(text: str) -> dict[str, Setting]:
    key, equals, value = text.partition("=")
    try:
        if not equals:
            raise ValueError
        return flatten_plain(key.strip(), parse_scalar(value), "--set")  # the value may be a secret
    except UNREADABLE:
        raise ConfigError.at(
            f"--set {text!r}", found="no key=value", allowed="key=value, the value as YAML", remedy="Correct it."
        ) from None
