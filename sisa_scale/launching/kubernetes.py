"""Kubernetes: a run as a RayJob of KubeRay. The manifest is `cluster/kubernetes/job.yaml.j2`.

A run has one RayJob, named after it. Submitting it again deletes the one that has ended and creates a new one, which
resumes: what a run is lies on the volume, not in the RayJob.
"""

import dataclasses
import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from sisa_scale.config.run import RunConfig
from sisa_scale.data.read.storage import is_remote
from sisa_scale.errors import ConfigError
from sisa_scale.launching.doctor.finding import Finding
from sisa_scale.launching.kubernetes_rules import config_map_problems, ray_job_problems
from sisa_scale.launching.launcher import ClusterLauncher
from sisa_scale.launching.profiles.kubernetes import KubernetesProfile
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.shell import call
from sisa_scale.launching.submission import Job, Submission, job_name, save_submission, write_files
from sisa_scale.launching.templates import render

_MANIFEST = "job.yaml"
_ENDED = ("Complete", "Failed", "ValidationFailed")
_POLL_SECONDS = 5.0


class KubernetesLauncher(ClusterLauncher[KubernetesProfile]):
    """Applies a RayJob for each run. Pods see a volume, which this machine does not."""

    shares_files = False

    def resolve(self, config: RunConfig, profile: KubernetesProfile) -> RunConfig:
        """Return the config with paths as pods see them."""
        return in_the_pods(config, profile)

    def check_inputs(self, config: RunConfig, reporter: Reporter) -> None:
        """Leave it to the pods."""

    def plan(self, job: Job, folder: Path, profile: KubernetesProfile) -> "KubernetesJob":
        """Return the run as a RayJob of its name."""
        return KubernetesJob(job_name(job.config.name), folder, job, profile)

    def check(self, profile: KubernetesProfile) -> Iterator[Finding]:
        """Ask for KubeRay, and for what the namespace must hold."""
        check_cluster(profile)
        yield Finding("kubernetes", "ok", f"KubeRay, {profile.storage.claim} and secrets are in {profile.namespace}")

    def is_over(self, state: str) -> bool:
        """Whether nothing more will come of a RayJob in this state, unless someone unsuspends it."""
        return state == "GONE" or state.startswith((*_ENDED, "Suspended"))

    def state(self, submission: Submission) -> str:
        """Return the state of the RayJob in KubeRay's words, `GONE` when there is none."""
        found = call([*_of(submission), "get", "rayjob", submission.job_id, "--ignore-not-found", "--output=json"])
        if not found.strip():
            return "GONE"
        status: dict[str, Any] = json.loads(found).get("status", {})
        words = [status.get("jobDeploymentStatus") or "Initializing", status.get("jobStatus") or ""]
        return " ".join(filter(None, words))

    def cancel(self, submission: Submission, *, at_once: bool) -> None:
        """Delete the RayJob; its pods let the run save first, unless `at_once`."""
        call([*_of(submission), "delete", "rayjob", submission.job_id, "--ignore-not-found", "--wait=false"])
        if at_once:
            label = f"--selector=ray.io/originated-from-cr-name={submission.job_id}"
            call([*_of(submission), "delete", "pods", label, "--force", "--grace-period=0"])

    def logs(self, submission: Submission) -> str:
        """Return what the job has printed."""
        return call([*_of(submission), "logs", f"--selector=job-name={submission.job_id}", "--tail=-1"])

    def follow(self, submission: Submission, reporter: Reporter) -> bool:
        """Report states and new lines until the job is over; returns whether it succeeded."""
        told, before = 0, ""
        while True:
            now = self.state(submission)
            if now != before:
                reporter.line(f"RayJob {submission.job_id}: {now}")
                before = now
            if not now.startswith(("Initializing", "Suspended", "Waiting")):
                lines = self.logs(submission).splitlines()
                told = told if told <= len(lines) else 0  # a new pod begins anew
                for line in lines[told:]:
                    reporter.line(line)
                told = len(lines)
            if now == "GONE" or now.startswith(_ENDED):
                return now.startswith("Complete")
            time.sleep(_POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class KubernetesJob:
    """Everything that a submission applies."""

    name: str
    folder: Path
    job: Job
    profile: KubernetesProfile

    def manifest(self) -> str:
        """Return the ConfigMap and the RayJob; raises ConfigError for what the operator would refuse."""
        text = render(
            "kubernetes/job.yaml.j2",
            name=self.name,
            profile=self.profile,
            run_dir=str(self.job.config.directory),
            files=self.job.files(marker=True),
        )
        config_map, ray_job = yaml.safe_load_all(text)
        problems = [*config_map_problems(config_map), *ray_job_problems(ray_job)]
        if problems:
            raise ConfigError.many(problems)
        return text

    def describe(self) -> str:
        """Return exactly what would be run and applied."""
        command = shlex.join([*self._kubectl(), "apply", "--filename=-"])
        return f"# {command}\n{self.manifest()}"

    def submit(self, reporter: Reporter) -> Submission:
        """Check the cluster, delete the RayJob of an earlier submission that has ended, and apply the new one."""
        manifest = self.manifest()
        check_cluster(self.profile)
        before = self._call("get", "rayjob", self.name, "--ignore-not-found", "--output=json")
        if before.strip():
            status = json.loads(before).get("status", {}).get("jobDeploymentStatus", "Initializing")
            if status not in (*_ENDED, "Suspended"):
                raise ConfigError.at(
                    f"RayJob {self.name}",
                    found=f"one that is {status}",
                    allowed="one RayJob of a name at a time",
                    remedy="Wait for it, `sisa-scale cancel` it, or choose another name=NAME.",
                )
            self._call("delete", "rayjob", self.name, "--wait=true", f"--timeout={self.profile.grace_seconds + 30}s")
        call([*self._kubectl(), "apply", "--filename=-"], text=manifest)
        write_files(self.folder, {_MANIFEST: manifest})
        settings = {"namespace": self.profile.namespace, "context": self.profile.context}
        return save_submission(self.folder, "kubernetes", self.name, settings)

    def _kubectl(self) -> list[str]:
        return _kubectl(self.profile.context, self.profile.namespace)

    def _call(self, *arguments: str, remedy: str = "") -> str:
        return _ask(self.profile, *arguments, remedy=remedy)


def check_cluster(profile: KubernetesProfile) -> None:
    """Raise ConfigError for an API server that does not answer and for what the namespace lacks."""
    context = "Check the context (kubectl config current-context) and your login; or set context in the profile."
    _ask(profile, "version", "--request-timeout=10s", remedy=context)
    _ask(profile, "get", "crd", "rayjobs.ray.io", "--output=name", remedy="Install KubeRay 1.5 or newer.")
    wanted = [("persistentvolumeclaim", profile.storage.claim, "Create it, or set storage.claim.")]
    wanted += [("secret", secret, "Create it, or remove it from secrets.") for secret in profile.secrets]
    if profile.queue:
        wanted.append(("localqueue", profile.queue, "Create it, or set queue: null."))
    for kind, name, remedy in wanted:
        _ask(profile, "get", kind, name, "--output=name", remedy=remedy)


def in_the_pods(config: RunConfig, profile: KubernetesProfile) -> RunConfig:
    """Return the config with paths as pods see them: relative ones lie on the volume.

    Raises ConfigError for an absolute path elsewhere.
    """
    mount = PurePosixPath(profile.storage.mount_path)

    def place(key: str, path: str) -> str:
        if is_remote(path):
            return path
        whole = mount / path
        if not whole.is_relative_to(mount) or ".." in whole.parts:
            raise ConfigError.at(
                key,
                found=path,
                allowed=f"a URL, a path below {mount} (storage.mount_path), or one relative to it",
                remedy="Pods see nothing else: copy it to the volume.",
            )
        return str(whole)

    data = config.data
    mix = {name: dataclasses.replace(s, path=place(f"data.mix.{name}.path", s.path)) for name, s in data.mix.items()}
    lambada = config.evaluation.lambada_path
    if lambada not in (None, "openai"):
        lambada = place("evaluation.lambada_path", str(lambada))
    questions = config.evaluation.questions_directory
    questions = place("evaluation.questions_directory", questions) if questions else None
    checkpoints = config.checkpoint.directory
    checkpoints = place("checkpoint.directory", checkpoints) if checkpoints else None
    return dataclasses.replace(
        config,
        checkpoint=dataclasses.replace(config.checkpoint, directory=checkpoints),
        run_dir=place("run_dir", str(config.directory)),
        begin_from=place("begin_from", config.begin_from) if config.begin_from else None,
        data=dataclasses.replace(data, path=place("data.path", data.path) if data.path else None, mix=mix),
        evaluation=dataclasses.replace(config.evaluation, lambada_path=lambada, questions_directory=questions),
    )


def _of(submission: Submission) -> list[str]:
    return _kubectl(submission.settings["context"], submission.settings["namespace"])


def _kubectl(context: str | None, namespace: str) -> list[str]:
    return ["kubectl", *([f"--context={context}"] if context else []), f"--namespace={namespace}"]


def _ask(profile: KubernetesProfile, *arguments: str, remedy: str) -> str:
    command = [*_kubectl(profile.context, profile.namespace), *arguments]
    return call(command, where=f"kubectl {' '.join(arguments[:3])}", remedy=remedy)
