"""Cluster profiles: where and how runs are started there. YAML as strict as recipes, one class for each target.

A profile is data of a site: `cluster/<target>/<name>.yaml`, or a file of the user's own that may `extends: <name>`.
Secrets have no place in it: they come from the environment of `submit`, or from a Kubernetes secret by name.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sisa_scale.config.fields import Violation, setting
from sisa_scale.config.loading.load import resolve_section
from sisa_scale.config.loading.strict import did_you_mean
from sisa_scale.config.loading.yaml_source import UNREADABLE, Setting, flatten_plain, merge, parse_scalar, read_settings
from sisa_scale.errors import ConfigError
from sisa_scale.launching.profiles.kubernetes import KubernetesProfile
from sisa_scale.launching.profiles.rules import environment_rules
from sisa_scale.launching.profiles.slurm import SlurmProfile
from sisa_scale.resources import resource_root

Target = Literal["local", "ray", "slurm", "kubernetes"]
TARGETS: tuple[Target, ...] = ("local", "ray", "slurm", "kubernetes")


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalProfile:
    """This machine."""

    target: Literal["local"] = setting("where runs go")
    description: str = setting("what the profile is for", default="")

    @property
    def resource_overrides(self) -> tuple[str, ...]:
        """The recipe's own resources hold."""
        return ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RayProfile:
    """A Ray cluster that runs, reached through its job server."""

    target: Literal["ray"] = setting("where runs go")
    description: str = setting("what the profile is for", default="")
    address: str | None = setting("http://HOST:PORT of the job server; --address goes before", default=None)
    token_file: str | None = setting(
        "file with the cluster's token, readable by its owner alone; null uses Ray's own settings", default=None
    )
    workers: int | None = setting("workers of a run; null keeps the recipe's", default=None, minimum=1)
    device: Literal["auto", "cpu", "cuda"] = setting("what workers compute on", default="auto")
    cpus_per_worker: int = setting("CPU cores of a worker", default=1, minimum=1)
    venv: str | None = setting("virtual environment on the cluster; null uses the PATH of Ray there", default=None)
    environment: tuple[str, ...] = setting("NAME=VALUE for the job, such as NCCL_DEBUG=WARN", default=())

    @property
    def resource_overrides(self) -> tuple[str, ...]:
        """What the profile says of `resources`."""
        shape = [f"resources.device={self.device}", f"resources.cpus_per_worker={self.cpus_per_worker}"]
        return (*shape, *([f"resources.workers={self.workers}"] if self.workers else []))

    def violations(self) -> Iterator[Violation]:
        """Rules inside the profile."""
        if self.address is not None and not re.fullmatch(r"https?://[^\s/]+(:\d+)?/?", self.address):
            yield Violation(
                "address", repr(self.address), "must be http://HOST:PORT", "Give the address of Ray's dashboard."
            )
        yield from environment_rules(self.environment)


Profile = LocalProfile | RayProfile | SlurmProfile | KubernetesProfile
_CLASSES: dict[str, type[LocalProfile] | type[RayProfile] | type[SlurmProfile] | type[KubernetesProfile]] = {
    "local": LocalProfile,
    "ray": RayProfile,
    "slurm": SlurmProfile,
    "kubernetes": KubernetesProfile,
}


def load_profile(target: Target, name: str | None, settings: Iterable[str] = ()) -> Profile:
    """Read a profile: a file, or the name of a shipped one (the target's only one may be left out).

    settings: `key=value` that go before the file's. Raises ConfigError that lists every problem found.
    """
    shipped = shipped_profiles(target)
    if name is None:
        if len(shipped) > 1:
            raise ConfigError.at(
                "--profile",
                found="nothing",
                allowed=f"{target} has {', '.join(shipped)}, or a file of your own",
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
    return resolve_section(_CLASSES[target], flat, "profile")


def shipped_profiles(target: Target) -> dict[str, Path]:
    """Return the profiles that come with the package, by name."""
    return {path.stem: path for path in sorted((resource_root("cluster") / target).glob("*.yaml"))}


def _check_target(target: Target, name: str, flat: dict[str, Setting]) -> None:
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
