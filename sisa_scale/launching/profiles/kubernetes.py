"""The profile of a Kubernetes cluster with KubeRay."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from sisa_scale.config.fields import Violation, setting
from sisa_scale.launching.profiles.profile import Profile
from sisa_scale.launching.profiles.rules import environment_rules, word_rules

_LABEL = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_UNITS |= {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_FIRST_WITH_TOKENS = (2, 52)
_QUANTITY = r"\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?"


@dataclass(frozen=True, kw_only=True, slots=True)
class PodSection:
    """Resources of one pod."""

    cpus: str = setting("CPU cores, such as 8 or 500m", default="4")
    memory: str = setting("memory, such as 32Gi", default="16Gi")
    shared_memory: str = setting("size of /dev/shm, within the memory", default="4Gi")
    node_selector: tuple[str, ...] = setting("LABEL=VALUE that nodes must have", default=())
    tolerations: tuple[str, ...] = setting("KEY=VALUE:EFFECT or KEY:EFFECT of taints that are tolerated", default=())
    patch: str = setting(
        "YAML that is merged into the pod's template (metadata, spec), see docs/clusters.md", default=""
    )

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        quantities = {name: getattr(self, name) for name in ("cpus", "memory", "shared_memory")}
        yield from word_rules(quantities, _QUANTITY, "a quantity of Kubernetes such as 8, 500m or 32Gi")
        for entry in self.node_selector:
            yield from word_rules({"node_selector": entry}, r"[A-Za-z0-9./_-]+=[A-Za-z0-9._-]*", "LABEL=VALUE")
        for entry in self.tolerations:
            form = r"[A-Za-z0-9./_-]+(=[A-Za-z0-9._-]*)?:(NoSchedule|PreferNoSchedule|NoExecute)"
            yield from word_rules({"tolerations": entry}, form, "KEY=VALUE:EFFECT or KEY:EFFECT")
        yield from _patch_rules(self.patch)
        memory, shared = _amount(self.memory), _amount(self.shared_memory)
        if memory is not None and shared is not None and shared > memory:
            rule = f"counts as memory, of which there is {self.memory}"
            yield Violation("shared_memory", self.shared_memory, rule, "Lower it, or raise memory.")


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageSection:
    """A persistent volume claim that every pod mounts: runs, and data sets that are not on an object store."""

    claim: str = setting("name of the PersistentVolumeClaim; several nodes need ReadWriteMany")
    mount_path: str = setting("mount path in the pods", default="/mnt/sisa-scale")

    def violations(self) -> Iterator[Violation]:
        """Rules inside the section."""
        yield from word_rules({"claim": self.claim}, _LABEL, "a name of Kubernetes: small letters, digits, - and .")
        yield from word_rules({"mount_path": self.mount_path}, r"/[A-Za-z0-9._/-]+", "an absolute path")


@dataclass(frozen=True, kw_only=True, slots=True)
class KubernetesProfile(Profile):
    """A RayJob: a head, workers, the volume, and how it queues."""

    context: str | None = setting("context of kubectl; null takes the current one", default=None)
    namespace: str = setting("namespace", default="default")
    image: str = setting("image with sisa-scale, see cluster/Dockerfile")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = setting(
        "when nodes pull the image", default="IfNotPresent"
    )
    image_pull_secret: str | None = setting("secret of the registry, by name", default=None)
    service_account: str | None = setting("service account of the pods", default=None)
    ray_version: str = setting("version of Ray in the image", default="2.60.0")
    nodes: int = setting("worker pods", default=1, minimum=1)
    gpus_per_node: int = setting("GPUs of a worker pod; 0 trains on CPUs", default=0, minimum=0)
    workers_per_node: int | None = setting("workers of a pod; null means one a GPU, or one", default=None, minimum=1)
    cpus_per_worker: int = setting("CPU cores of a worker", default=1, minimum=1)
    head: PodSection = setting("the head pod; it does not train", default_factory=PodSection)
    worker: PodSection = setting("a worker pod", default_factory=PodSection)
    storage: StorageSection = setting("the volume of the runs")
    user_id: int | None = setting(
        "user and group of the pods, who also own the volume; null leaves it to the image and the cluster",
        default=1000,
        minimum=1,
    )
    environment: tuple[str, ...] = setting("NAME=VALUE for every pod, such as NCCL_DEBUG=WARN", default=())
    secrets: tuple[str, ...] = setting(
        "secrets by name whose keys become variables, such as WANDB_API_KEY or AWS_SECRET_ACCESS_KEY", default=()
    )
    queue: str | None = setting("LocalQueue of Kueue; null does without Kueue", default=None)
    queue_priority: str | None = setting("WorkloadPriorityClass of Kueue", default=None)
    pod_priority: str | None = setting("PriorityClass of the pods", default=None)
    token_auth: bool = setting("whether Ray asks for a token, which KubeRay (1.5 or newer) makes", default=True)
    suspend: bool = setting("whether the job is created suspended; Kueue always does so", default=False)
    max_restarts: int = setting("most restarts of a failed job, each on a new cluster", default=3, minimum=0)
    grace_seconds: int = setting("time for a checkpoint when a node goes away", default=120, minimum=10)
    active_deadline_seconds: int | None = setting(
        "longest duration of the job; null sets none", default=None, minimum=1
    )
    ttl_seconds: int = setting("seconds until a finished job's cluster is deleted", default=300, minimum=0)
    patch: str = setting("YAML that is merged into the RayJob, after the patches of its pods", default="")

    @property
    def has_patch(self) -> bool:
        """Whether anything is merged into the RayJob."""
        return bool(self.patch or self.head.patch or self.worker.patch)

    @property
    def num_workers_per_node(self) -> int:
        """Workers of a pod."""
        return self.workers_per_node or self.gpus_per_node or 1

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
        names = ("namespace", "image_pull_secret", "service_account", "queue", "queue_priority", "pod_priority")
        labels = {name: getattr(self, name) for name in names}
        yield from word_rules(labels, _LABEL, "a name of Kubernetes: small letters, digits, - and .")
        for secret in self.secrets:
            yield from word_rules({"secrets": secret}, _LABEL, "the name of a secret")
        yield from word_rules({"image": self.image}, r"[A-Za-z0-9._:/@-]+", "an image such as registry/name:tag")
        yield from word_rules({"ray_version": self.ray_version}, r"\d+\.\d+\.\d+", "a version such as 2.60.0")
        if self.gpus_per_node and self.workers_per_node not in (None, self.gpus_per_node):
            found = f"{self.workers_per_node} with gpus_per_node {self.gpus_per_node}"
            yield Violation("workers_per_node", found, "a GPU has one worker", "Write null.")
        if self.queue_priority and not self.queue:
            yield Violation("queue_priority", self.queue_priority, "needs a queue", "Name the queue too.")
        yield from environment_rules(self.environment)
        yield from _patch_rules(self.patch)
        version = re.fullmatch(r"(\d+)\.(\d+)\.\d+", self.ray_version)
        if self.token_auth and version and (int(version[1]), int(version[2])) < _FIRST_WITH_TOKENS:
            rule = "Ray asks for tokens from 2.52 on"
            yield Violation("ray_version", f"{self.ray_version} with token_auth", rule, "Write token_auth: false.")


def read_patch(text: str) -> dict[str, Any]:
    """Return a patch as a mapping; raises yaml.YAMLError or ValueError."""
    patch = yaml.safe_load(text) if text else {}
    if not isinstance(patch, dict):
        raise ValueError("no mapping")
    return patch


def _patch_rules(text: str) -> Iterator[Violation]:
    try:
        read_patch(text)
    except (yaml.YAMLError, ValueError) as error:
        found = " ".join(str(error).split())
        yield Violation("patch", found, "must be a text (patch: |) that holds a mapping of YAML", "Correct it.")


def _amount(quantity: str) -> float | None:
    number = quantity.rstrip("mkMGTi")
    return float(number) * _UNITS[quantity.removeprefix(number)] if re.fullmatch(_QUANTITY, quantity) else None
