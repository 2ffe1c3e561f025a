"""A RayJob and its ConfigMap: the manifest, `cluster/kubernetes/job.yaml.j2`, and how it is applied.

Both carry labels: of the run (owner, volume and directory), by which only its owner's submissions touch them, and of
the directory, in which only one RayJob may work, whoever owns it.
"""

import getpass
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sisa_scale.errors import ConfigError
from sisa_scale.launching.kubernetes.patch import patched
from sisa_scale.launching.kubernetes.rules import config_map_problems, ray_job_problems
from sisa_scale.launching.profiles.kubernetes import KubernetesProfile
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.shell import call
from sisa_scale.launching.submission import Job, Submission, save_submission, short_hash, unique_name, write_files
from sisa_scale.launching.templates import render

ENDED = ("Complete", "Failed", "ValidationFailed")
RUN_LABEL, DIRECTORY_LABEL = "sisa-scale/run", "sisa-scale/directory"
_MANIFEST = "job.yaml"


@dataclass(frozen=True, slots=True)
class KubernetesJob:
    """Everything that a submission applies."""

    folder: Path
    job: Job
    profile: KubernetesProfile

    @property
    def run_dirs(self) -> tuple[Path, ...]:
        """The directory that its notes lie in; pods see the run, this machine does not."""
        return (self.folder.parent.parent,)

    @property
    def name(self) -> str:
        """Return the name of the RayJob and the ConfigMap."""
        return unique_name(self.job.config.name, self._identity)

    def manifest(self) -> str:
        """Return the ConfigMap and the RayJob; raises ConfigError for what the operator would refuse."""
        observation = self.job.config.observation
        text = render(
            "kubernetes/job.yaml.j2",
            metrics_port=observation.metrics_port if observation.is_reachable else None,
            name=self.name,
            labels=self._labels(),
            owner=getpass.getuser(),
            profile=self.profile,
            run_dir=str(self.job.config.directory),
            files=self.job.files(marker=True),
        )
        config_map, ray_job = yaml.safe_load_all(text)
        if self.profile.has_patch:
            ray_job = patched(ray_job, self.profile)
            text = yaml.safe_dump_all([config_map, ray_job], sort_keys=False, width=110)
        problems = [*config_map_problems(config_map), *ray_job_problems(ray_job)]
        if problems:
            raise ConfigError.many(problems)
        return text

    def describe(self) -> str:
        """Return exactly what would be run and applied."""
        return f"# {shlex.join(self._apply())}\n{self.manifest()}"

    def submit(self, reporter: Reporter) -> Submission:
        """Check the cluster, delete the RayJob of an earlier submission that has ended, and apply the new one.

        Raises ConfigError, and touches nothing, where another RayJob works in the directory or has the name.
        """
        manifest = self.manifest()
        check_cluster(self.profile)
        self._refuse_others()
        if self._found("rayjob"):
            timeout = f"--timeout={self.profile.grace_seconds + 30}s"
            ask(self.profile, "delete", "rayjob", self.name, "--wait=true", timeout)
        call(self._apply(), text=manifest)
        self._bind_config_map()
        write_files(self.folder, {_MANIFEST: manifest})
        settings = {"namespace": self.profile.namespace, "context": self.profile.context}
        return save_submission(self.folder, "kubernetes", self.name, {**settings, "run": self._labels()[RUN_LABEL]})

    @property
    def _directory(self) -> str:
        return f"{self.profile.storage.claim}:{self.job.config.directory}"

    @property
    def _identity(self) -> str:
        return f"{getpass.getuser()}:{self._directory}"

    def _labels(self) -> dict[str, str]:
        return {RUN_LABEL: short_hash(self._identity), DIRECTORY_LABEL: short_hash(self._directory)}

    def _refuse_others(self) -> None:
        selector = f"--selector={DIRECTORY_LABEL}={self._labels()[DIRECTORY_LABEL]}"
        found = ask(self.profile, "get", "rayjob", selector, "--output=json")
        for item in json.loads(found)["items"] if found.strip() else []:
            if not state_of(item).startswith(ENDED):
                name = item["metadata"]["name"]
                raise ConfigError.at(
                    f"RayJob {name}",
                    found=f"one that is {state_of(item)} in {self.job.config.directory}",
                    allowed="one RayJob of a run at a time",
                    remedy="Wait for it, `sisa-scale cancel` it, or choose another run_dir=PATH.",
                )
        for kind in ("rayjob", "configmap"):
            item = self._found(kind)
            if item and item["metadata"].get("labels", {}).get(RUN_LABEL) != self._labels()[RUN_LABEL]:
                raise ConfigError.at(
                    f"{kind} {self.name}",
                    found="one with the labels of something else",
                    allowed=f"{RUN_LABEL}: {self._labels()[RUN_LABEL]}",
                    remedy="It is not touched: choose another name=NAME.",
                )

    def _found(self, kind: str) -> dict[str, Any]:
        text = ask(self.profile, "get", kind, self.name, "--ignore-not-found", "--output=json")
        item: dict[str, Any] = json.loads(text) if text.strip() else {}
        return item

    def _bind_config_map(self) -> None:
        """Let the ConfigMap go when the RayJob does."""
        item = self._found("rayjob")
        owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": self.name, "uid": item["metadata"]["uid"]}
        patch = json.dumps({"metadata": {"ownerReferences": [owner]}})
        ask(self.profile, "patch", "configmap", self.name, "--type=merge", f"--patch={patch}")

    def _apply(self) -> list[str]:
        # On the server: on this side a ConfigMap above 256 KiB would not fit into an annotation of its own.
        options = ["--server-side", "--field-manager=sisa-scale", "--force-conflicts", "--filename=-"]
        return [*kubectl(self.profile.context, self.profile.namespace), "apply", *options]


def state_of(ray_job: dict[str, Any]) -> str:
    """Return the state of a RayJob in KubeRay's words."""
    status: dict[str, Any] = ray_job.get("status") or {}
    words = [status.get("jobDeploymentStatus") or "Initializing", status.get("jobStatus") or ""]
    return " ".join(filter(None, words))


def check_cluster(profile: KubernetesProfile) -> None:
    """Raise ConfigError for an API server that does not answer and for what the namespace lacks."""
    context = "Check the context (kubectl config current-context) and your login; or set context in the profile."
    ask(profile, "version", "--request-timeout=10s", remedy=context)
    ask(profile, "get", "crd", "rayjobs.ray.io", "--output=name", remedy="Install KubeRay 1.5 or newer.")
    wanted = [("persistentvolumeclaim", profile.storage.claim, "Create it, or set storage.claim.")]
    wanted += [("secret", secret, "Create it, or remove it from secrets.") for secret in profile.secrets]
    if profile.queue:
        wanted.append(("localqueue", profile.queue, "Create it, or set queue: null."))
    for kind, name, remedy in wanted:
        ask(profile, "get", kind, name, "--output=name", remedy=remedy)


def kubectl(context: str | None, namespace: str) -> list[str]:
    """Return the beginning of every command."""
    return ["kubectl", *([f"--context={context}"] if context else []), f"--namespace={namespace}"]


def ask(profile: KubernetesProfile, *arguments: str, remedy: str = "") -> str:
    """Run kubectl; raises ConfigError with its own words."""
    command = [*kubectl(profile.context, profile.namespace), *arguments]
    return call(command, where=f"kubectl {' '.join(arguments[:3])}", remedy=remedy)
