"""The profile of a Slurm cluster."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sisa_scale.config.fields import Violation, setting
from sisa_scale.launching.profiles.profile import Profile
from sisa_scale.launching.profiles.rules import environment_rules, word_rules

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
        "interface that Ray uses between nodes; null asks the resolver", default=None
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
        yield from word_rules({"time_limit": self.time_limit}, r"(\d+-)?\d+(:\d\d){0,2}", "days-hours:minutes:seconds")
        yield from word_rules({"memory_per_node": self.memory_per_node}, r"\d+[KMGT]?", "a number with K, M, G or T")
        yield from word_rules({"network_interface": self.network_interface}, r"[A-Za-z0-9_.:-]+", "an interface")
        for name in ("directives", "modules"):
            pattern = rf"--[a-z]{_WORD}" if name == "directives" else _WORD
            for value in getattr(self, name):
                yield from word_rules({name: value}, pattern, "one option or name without spaces or quotes")
        if self.gpus_per_node and self.workers_per_node not in (None, self.gpus_per_node):
            found = f"{self.workers_per_node} with gpus_per_node {self.gpus_per_node}"
            yield Violation("workers_per_node", found, "a GPU has one worker", "Write null.")
        yield from environment_rules(self.environment)
