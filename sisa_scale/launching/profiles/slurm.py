"""The profile of a Slurm cluster."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sisa_scale.config.fields import Violation, setting
from sisa_scale.launching.profiles.profile import Profile
from sisa_scale.launching.profiles.rules import environment_rules, word_rules

# Slurm may warn a minute early, and workers need most of another one to start.
_START_SECONDS = 120
_TIME = r"(\d+-)?\d+(:\d\d){0,2}"
_WORD = r"[A-Za-z0-9_.,:@/&|*()\[\]=+-]+"


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerSection:
    """The image that everything but Slurm's own commands runs in."""

    runtime: Literal["apptainer", "pyxis"] = setting("container runtime: apptainer, or srun with pyxis")
    image: str = setting("path of the image, or its name in a registry")
    mounts: tuple[str, ...] = setting("SOURCE:TARGET of folders that the container sees", default=())


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmProfile(Profile):
    """An allocation of Slurm, and what is done before and after a run in it."""

    paths = ("venv", "container.image", "container.mounts", "node_local_paths")
    node_paths = ("node_scratch",)

    nodes: int = setting("nodes of the allocation", default=1, minimum=1)
    gpus_per_node: int = setting("GPUs of every node; 0 trains on CPUs", default=0, minimum=0)
    gpu_type: str | None = setting("kind of GPU, as Slurm names it in --gpus-per-node", default=None)
    workers_per_node: int | None = setting("workers of a node; null means one a GPU, or one", default=None, minimum=1)
    cpus_per_worker: int = setting("CPU cores of a worker", default=1, minimum=1)
    memory_per_node: str | None = setting("memory of a node such as 200G; 0 takes all", default=None)
    exclusive: bool = setting("whether the job has its nodes to itself", default=False)
    time_limit: str = setting("time limit such as 24:00:00 or 2-00:00:00")
    partition: str | None = setting("partition", default=None)
    account: str | None = setting("account", default=None)
    qos: str | None = setting("quality of service", default=None)
    constraint: str | None = setting("features that nodes must have", default=None)
    directives: tuple[str, ...] = setting("more sbatch options, such as --reservation=name", default=())
    modules: tuple[str, ...] = setting("environment modules to load", default=())
    venv: str | None = setting("virtual environment seen by every node; null uses the PATH of submit", default=None)
    container: ContainerSection | None = setting("container for all processes; null uses none", default=None)
    environment: tuple[str, ...] = setting("NAME=VALUE for every process, such as NCCL_SOCKET_IFNAME=ib0", default=())
    warning_seconds: int = setting("seconds between the warning and the time limit", default=180, minimum=1)
    when_interrupted: Literal["requeue", "resubmit", "stop"] = setting(
        "action after the checkpoint at the time limit: requeue the job, submit a successor, or stop", default="requeue"
    )
    max_restarts: int = setting("most restarts after interruptions", default=100, minimum=0)
    max_array_tasks: int = setting("most tasks of a study at the same time", default=8, minimum=1)
    network_interface: str | None = setting(
        "what nodes talk over, by name (ib0) or network (10.0.0.0/16); null takes the way from node to node",
        default=None,
    )
    node_scratch: str = setting("node-local folder for Ray's sockets and logs; a short path", default="/tmp")
    node_local_paths: tuple[str, ...] = setting(
        "node-local folders: a run or data set there is refused",
        default=("/tmp", "/var/tmp", "/dev/shm", "/run"),
    )
    dashboard: bool = setting("whether Ray's dashboard runs, on the loopback of the first node", default=False)
    object_store_bytes: int = setting(
        "Ray's object store on a node; runs need little", default=256 << 20, minimum=80 << 20
    )
    start_seconds: int = setting("longest wait for nodes to join Ray", default=300, minimum=1)

    @property
    def num_workers_per_node(self) -> int:
        """Workers of a node."""
        return self.workers_per_node or self.gpus_per_node or 1

    @property
    def cpus_per_node(self) -> int:
        """CPU cores of a node."""
        return self.num_workers_per_node * self.cpus_per_worker

    @property
    def allocation(self) -> tuple[int, int]:
        """Nodes and the workers of each."""
        return self.nodes, self.num_workers_per_node

    @property
    def resource_overrides(self) -> tuple[str, ...]:
        """What the profile says of `resources`."""
        return (
            f"resources.workers={self.nodes * self.num_workers_per_node}",
            f"resources.device={'cuda' if self.gpus_per_node else 'cpu'}",
            f"resources.cpus_per_worker={self.cpus_per_worker}",
        )

    def violations(self) -> Iterator[Violation]:
        """Rules inside the profile."""
        words = {name: getattr(self, name) for name in ("gpu_type", "partition", "account", "qos", "constraint")}
        yield from word_rules(words, _WORD, "a name as Slurm writes it, without spaces or quotes")
        yield from word_rules({"memory_per_node": self.memory_per_node}, r"\d+[KMGT]?", "a number with K, M, G or T")
        yield from self._time_rules()
        network = r"[A-Za-z0-9_.:-]+|\d+(\.\d+){3}/\d+"
        yield from word_rules({"network_interface": self.network_interface}, network, "an interface or a network")
        if not re.fullmatch(r"/[^\s$~]*", self.node_scratch):
            yield Violation("node_scratch", repr(self.node_scratch), "must be an absolute path", "Correct it.")
        for name in ("directives", "modules"):
            pattern = rf"--[a-z]{_WORD}" if name == "directives" else _WORD
            for value in getattr(self, name):
                yield from word_rules({name: value}, pattern, "one option or name without spaces or quotes")
        if self.gpus_per_node and self.workers_per_node not in (None, self.gpus_per_node):
            found = f"{self.workers_per_node} with gpus_per_node {self.gpus_per_node}"
            yield Violation("workers_per_node", found, "a GPU has one worker", "Write null.")
        yield from environment_rules(self.environment)

    def _time_rules(self) -> Iterator[Violation]:
        """A job that is warned as soon as it begins would be put back for ever."""
        if not re.fullmatch(_TIME, self.time_limit):
            yield Violation("time_limit", repr(self.time_limit), "must be days-hours:minutes:seconds", "Correct it.")
            return
        least = self.warning_seconds + _START_SECONDS
        if 0 < limit_seconds(self.time_limit) < least:
            found = f"{self.time_limit} with warning_seconds {self.warning_seconds}"
            rule = f"must leave {_START_SECONDS} s to start before the warning: at least {least} s"
            yield Violation("time_limit", found, rule, "Raise it, or lower warning_seconds.")


def limit_seconds(time_limit: str) -> int:
    """Return a time limit as Slurm reads it: MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS. 0 is none."""
    days, dash, clock = time_limit.rpartition("-")
    numbers = [int(number) for number in clock.split(":")]
    if dash:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    else:
        hours, minutes, seconds = {1: (0, *numbers, 0), 2: (0, *numbers), 3: tuple(numbers)}[len(numbers)]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
