"""The profile of a Ray cluster."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sisa_scale.config.fields import Violation, setting
from sisa_scale.launching.profiles.profile import Profile
from sisa_scale.launching.profiles.rules import environment_rules, word_rules


@dataclass(frozen=True, kw_only=True, slots=True)
class RayProfile(Profile):
    """A Ray cluster that runs, reached through its job server."""

    paths = ("token_file",)

    address: str | None = setting("http://HOST:PORT of the job server; --address overrides it", default=None)
    token_file: str | None = setting(
        "file with the cluster's token, readable by its owner only; null uses Ray's own settings", default=None
    )
    workers: int | None = setting("workers of a run; null keeps the recipe's", default=None, minimum=1)
    device: Literal["auto", "cpu", "cuda"] = setting("device of the workers", default="auto")
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
        yield from word_rules(
            {"venv": self.venv}, r"/[^~$]*", "an absolute path of the cluster, without ~ and variables"
        )
        yield from environment_rules(self.environment)
