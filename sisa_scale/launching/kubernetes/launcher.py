"""Kubernetes: a run as a RayJob of KubeRay. The manifest is `cluster/kubernetes/job.yaml.j2`.

A run has one RayJob, named after it and its owner. Submitting it again deletes the one that has ended and creates a new
one, which resumes: what a run is lies on the volume, not in the RayJob. `kubernetes_job.py` has the RayJob itself.
"""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sisa_scale.config.run import RunConfig
from sisa_scale.data.read.storage import is_remote
from sisa_scale.errors import ConfigError
from sisa_scale.launching.doctor.finding import Finding
from sisa_scale.launching.kubernetes.job import ENDED, RUN_LABEL, KubernetesJob, check_cluster, kubectl, state_of
from sisa_scale.launching.launcher import ClusterLauncher
from sisa_scale.launching.profiles.kubernetes import KubernetesProfile
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.shell import call
from sisa_scale.launching.submission import Job, Submission

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
        return KubernetesJob(folder, job, profile)

    def check(self, profile: KubernetesProfile) -> Iterator[Finding]:
        """Ask for KubeRay, and for what the namespace must hold."""
        check_cluster(profile)
        yield Finding("kubernetes", "ok", f"KubeRay, {profile.storage.claim} and secrets are in {profile.namespace}")

    def is_over(self, state: str) -> bool:
        """Whether nothing more will come of a RayJob in this state; one that is suspended may wait in a queue."""
        return state == "GONE" or state.startswith(ENDED)

    def state(self, submission: Submission) -> str:
        """Return the state of the RayJob in KubeRay's words, `GONE` when there is none."""
        found = call([*_of(submission), "get", "rayjob", submission.job_id, "--ignore-not-found", "--output=json"])
        if not found.strip():
            return "GONE"
        return state_of(json.loads(found))

    def cancel(self, submission: Submission, *, at_once: bool) -> None:
        """Delete the RayJob; its pods let the run save first, unless `at_once`."""
        call([*_of(submission), "delete", "rayjob", *_selected(submission), "--ignore-not-found", "--wait=false"])
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
            if now == "GONE" or now.startswith(ENDED):
                return now.startswith("Complete")
            time.sleep(_POLL_SECONDS)


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
    return kubectl(submission.settings["context"], submission.settings["namespace"])


def _selected(submission: Submission) -> list[str]:
    """Return what selects the RayJob of a submission: its labels, since its name may be another's by now."""
    run = submission.settings.get("run")
    return [f"--selector={RUN_LABEL}={run}"] if run else [submission.job_id]
