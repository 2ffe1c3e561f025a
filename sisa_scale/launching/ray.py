"""A Ray cluster that runs: its job server starts the run, which then lives on without the one who submitted it."""

import os
import secrets
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError
from sisa_scale.launching.doctor.finding import Finding
from sisa_scale.launching.launcher import ClusterLauncher
from sisa_scale.launching.profiles.ray import RayProfile
from sisa_scale.launching.proxies import proxy_advice
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.submission import Job, Submission, job_name, save_submission, write_files
from sisa_scale.runs.layout import STOP, holds_run
from sisa_scale.runs.stop_request import write_stop

_COMMAND = "bash start.sh resources.ray_address=auto"
_POLL_SECONDS = 1.0
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


class RayLauncher(ClusterLauncher[RayProfile]):
    """Hands runs to a job server; the data may be visible to the cluster alone."""

    def check_inputs(self, config: RunConfig, reporter: Reporter) -> None:
        """Check the data set and the tasks, if the data set is visible from here."""
        paths: Sequence[str] = [source.path for source in config.data.sources.values()]
        if all("://" in path or Path(path).exists() for path in paths):
            super().check_inputs(config, reporter)
        else:
            reporter.announce("the data set is not visible from here: the job itself will check it")

    def plan(self, job: Job, folder: Path, profile: RayProfile) -> "RayJob":
        """Return the run as a job of the server."""
        return RayJob(folder, job, profile)

    def check(self, profile: RayProfile) -> Iterator[Finding]:
        """Ask the job server for its version."""
        with _client(_settings(profile)) as client:
            version = client.get_version()
        yield Finding("ray jobs", "ok", f"{profile.address} answers, Ray {version}")

    def is_over(self, state: str) -> bool:
        """Whether nothing more will come of a job in this state."""
        return state in (*_ENDED, "GONE")

    def state(self, submission: Submission) -> str:
        """Return the state of the job in Ray's words, `GONE` when the cluster does not know it."""
        with _client(submission.settings) as client:
            try:
                return str(client.get_job_status(submission.job_id).value)
            except RuntimeError as error:
                if "404" in str(error) or "does not exist" in str(error):
                    return "GONE"
                raise

    def logs(self, submission: Submission) -> str:
        """Return what the job has printed."""
        with _client(submission.settings) as client:
            return str(client.get_job_logs(submission.job_id))

    def follow(self, submission: Submission, reporter: Reporter) -> bool:
        """Report new lines until the job is over; returns whether it succeeded."""
        told = 0
        with _client(submission.settings) as client:
            while True:
                ended = str(client.get_job_status(submission.job_id).value) in _ENDED
                text = str(client.get_job_logs(submission.job_id))
                whole = len(text) if ended else text.rfind("\n") + 1
                for line in text[told:whole].splitlines():
                    reporter.line(line)
                told = max(told, whole)
                if ended:
                    info = client.get_job_info(submission.job_id)
                    reporter.line(f"job {submission.job_id}: {info.status.value}")
                    return bool(info.status.value == "SUCCEEDED")
                time.sleep(_POLL_SECONDS)

    def cancel(self, submission: Submission, *, at_once: bool) -> None:
        """Tell the run to save and stop through its directory; kill the job `at_once`, or where that is not seen."""
        run_dir = Path(submission.settings["run_dir"])
        if not at_once and holds_run(run_dir):
            write_stop(run_dir / STOP, "interrupt")
            return
        with _client(submission.settings) as client:
            client.stop_job(submission.job_id)


@dataclass(frozen=True, slots=True)
class RayJob:
    """Everything that a submission sends; its folder travels to the cluster with it."""

    folder: Path
    job: Job
    profile: RayProfile

    @property
    def run_dirs(self) -> tuple[Path, ...]:
        """The directory that its notes lie in."""
        return (self.folder.parent.parent,)

    def files(self) -> dict[str, str]:
        """Return the files that travel."""
        return self.job.files(self.profile.venv, self.profile.environment)

    def describe(self) -> str:
        """Return exactly what would be written and run."""
        command = ["ray", "job", "submit", "--address", _address(self.profile), "--working-dir", str(self.folder)]
        parts = [f"# {shlex.join(command)} -- {_COMMAND}"]
        parts += [f"# {self.folder / name}\n{text.rstrip()}" for name, text in self.files().items()]
        return "\n\n".join(parts)

    def submit(self, reporter: Reporter) -> Submission:
        """Send it; raises ConfigError when the server does not answer or does not accept the token."""
        settings = {**_settings(self.profile), "run_dir": str(self.job.config.directory)}
        with _client(settings) as client:
            write_files(self.folder, self.files())
            job_id: str = client.submit_job(
                entrypoint=_COMMAND,
                submission_id=f"{job_name(self.job.config.name)}-{secrets.token_hex(4)}",
                runtime_env={"working_dir": str(self.folder)},
            )
        return save_submission(self.folder, "ray", job_id, settings)


def _settings(profile: RayProfile) -> dict[str, Any]:
    token_file = str(Path(profile.token_file).absolute()) if profile.token_file else None
    return {"address": _address(profile), "token_file": token_file}


def _address(profile: RayProfile) -> str:
    if profile.address is None:
        raise ConfigError.at(
            "address",
            found="nothing",
            allowed="http://HOST:PORT of the job server",
            remedy="Give --address, or set address in a profile.",
        )
    return profile.address


@contextmanager
def _client(settings: dict[str, Any]) -> Iterator[Any]:
    """Connect to a job server, with the token of a file for as long as the block lasts."""
    before = {name: os.environ.get(name) for name in _TOKEN_VARIABLES}
    token_file = settings["token_file"]
    if token_file is not None:
        _check_token_file(Path(token_file))
        os.environ.pop("RAY_AUTH_TOKEN", None)
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token_file}
    try:
        yield _connect(settings["address"])
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _connect(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except Exception as error:  # ConnectionError, RuntimeError and Ray's own, by release
        reason = " ".join(str(error).split())[:300]
        way, advice = proxy_advice(address)
        raise ConfigError.at(
            address,
            found=f"no job server that lets us in ({reason}){way}",
            allowed="the address of Ray's dashboard, with the cluster's token",
            remedy="Check the address, the tunnel to it, and token_file or RAY_AUTH_TOKEN_PATH."
            + (f" {advice}" if advice else ""),
        ) from error


def _check_token_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode & 0o077
    except OSError as error:
        raise ConfigError.at(
            path, found=str(error), allowed="a file with the cluster's token", remedy="Correct token_file."
        ) from None
    if mode:
        raise ConfigError.at(
            path, found="a token that others can read", allowed="mode 0600", remedy=f"chmod 600 {path}"
        )
