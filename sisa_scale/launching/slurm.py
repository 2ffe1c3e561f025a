"""Slurm: the script of a job, its submission, its state and its end. The script is `cluster/slurm/job.sbatch.j2`."""

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError
from sisa_scale.launching.doctor.finding import Finding
from sisa_scale.launching.launcher import ArrayLauncher
from sisa_scale.launching.profiles.slurm import SlurmProfile
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.shell import call
from sisa_scale.launching.submission import (
    Job,
    Submission,
    check_visible,
    job_name,
    save_submission,
    write_files,
)
from sisa_scale.launching.templates import render

CANCELLED = "cancelled"
_SCRIPT = "job.sbatch"
_AT_WORK = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUE", "SUSPENDED", "SIGNALING", "STAGE", "RESIZ")
_POLL_SECONDS = 1.0
_STATE_SECONDS = 5.0  # between questions to the scheduler


class SlurmLauncher(ArrayLauncher[SlurmProfile]):
    """Hands runs to sbatch; several become one array."""

    def resolve(self, config: RunConfig, profile: SlurmProfile) -> RunConfig:
        """Return the config with absolute paths; raises ConfigError for one that other nodes do not see."""
        config = super().resolve(config, profile)
        check_visible(config, profile.node_local_paths)
        return config

    def plan(self, job: Job, folder: Path, profile: SlurmProfile) -> "SlurmJob":
        """Return the run as a job without tasks."""
        return self.plan_array(job.config.name, (job,), folder, profile)

    def plan_array(
        self, name: str, jobs: tuple[Job, ...], folder: Path, profile: SlurmProfile, *, after: str | None = None
    ) -> "SlurmJob":
        """Return runs as an array of one task each."""
        return SlurmJob(name, folder, Path.cwd(), jobs, profile, after)

    def check(self, profile: SlurmProfile) -> Iterator[Finding]:
        """Let Slurm say whether such nodes could ever be had."""
        check_allocation(profile)
        wanted = f"{profile.nodes} nodes, {profile.gpus_per_node} GPUs each, {profile.time_limit}"
        yield Finding("slurm", "ok", f"accepts {wanted}")

    def state(self, submission: Submission) -> str:
        """Return the state of the job in Slurm's words, `GONE` when Slurm has forgotten it."""
        job_id = current_id(submission)
        flags = ["--noheader", "--array", "--states=all", "--format=%T %r"]
        try:
            lines = call(["squeue", *flags, f"--jobs={job_id}"]).splitlines()
        except ConfigError as error:
            if "Invalid job id" in str(error):
                return "GONE"
            raise
        states = [line.split(maxsplit=1) for line in lines]
        texts = [f"{name} ({reason})" if name == "PENDING" else name for name, reason in states]
        return ", ".join(dict.fromkeys(texts)) or "GONE"

    def is_over(self, state: str) -> bool:
        """Whether nothing more will come of a job in this state."""
        return not any(word in state for word in _AT_WORK)

    def cancel(self, submission: Submission, *, at_once: bool) -> None:
        """Take a waiting job out of the queue; tell a running one to save and stop, or kill it `at_once`."""
        job_id = current_id(submission)
        if at_once:
            call(["scancel", job_id])
            return
        (Path(submission.folder) / CANCELLED).touch()  # the script then ends instead of going back into the queue
        for word, options in (("PENDING", []), ("RUNNING", ["--batch", "--signal=USR1"])):
            if word in self.state(submission):
                call(["scancel", f"--state={word}", *options, job_id])

    def logs(self, submission: Submission) -> str:
        """Return what the job has printed."""
        return "".join(f"{line}\n" for line in _new_lines([_Tail(path) for path in log_paths(submission)]))

    def follow(self, submission: Submission, reporter: Reporter) -> bool:
        """Report new lines and states until the job is over; returns whether it succeeded."""
        tails = [_Tail(path) for path in log_paths(submission)]
        asked, state = 0.0, "PENDING"
        while True:
            for line in _new_lines(tails):
                reporter.line(line)
            if self.is_over(state):
                reporter.announce(f"job {current_id(submission)}: {state}")
                return state in ("COMPLETED", "GONE")
            if time.monotonic() - asked > _STATE_SECONDS:
                asked, before, state = time.monotonic(), state, self.state(submission)
                if state != before:
                    reporter.announce(f"job {current_id(submission)}: {state}")
            time.sleep(_POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """Everything that a submission writes and runs; several jobs make an array. after: the job that ends first."""

    name: str
    folder: Path
    directory: Path
    jobs: tuple[Job, ...]
    profile: SlurmProfile
    after: str | None = None

    def files(self) -> dict[str, str]:
        """Return the files of the submission by name."""
        script = render(
            "slurm/job.sbatch.j2",
            name=job_name(self.name),
            profile=self.profile,
            folder=str(self.folder),
            scripts=[job.script for job in self.jobs],
            restarts=0,
        )
        files = {_SCRIPT: script}
        for job in self.jobs:
            files |= job.files()
        return files

    def command(self) -> list[str]:
        """Return the command that submits it. Paths are arguments: a directive could not carry all of them."""
        return [
            "sbatch",
            "--parsable",
            *([f"--dependency=afterany:{self.after}"] if self.after is not None else []),
            f"--chdir={self.directory}",
            f"--output={_pattern(self.log_path)}",
            str(self.folder / _SCRIPT),
        ]

    @property
    def log_path(self) -> Path:
        """What the job prints; %a stands for the number of a task."""
        return self.folder / ("output-%a.log" if len(self.jobs) > 1 else "output.log")

    def describe(self) -> str:
        """Return exactly what would be written and run."""
        parts = [f"# {shlex.join(self.command())}"]
        parts += [f"# {self.folder / name}\n{text.rstrip()}" for name, text in self.files().items()]
        return "\n\n".join(parts)

    def submit(self, reporter: Reporter) -> Submission:
        """Let Slurm check the job, write its files and submit it; raises ConfigError with Slurm's own reason."""
        check_allocation(self.profile, len(self.jobs))
        write_files(self.folder, self.files())
        job_id = call(self.command()).strip().partition(";")[0]
        settings = {"num_tasks": len(self.jobs)}
        return save_submission(self.folder, "slurm", job_id, settings)


def check_allocation(profile: SlurmProfile, num_tasks: int = 1) -> None:
    """Ask Slurm whether such nodes could ever be had; nothing is queued. Raises ConfigError with Slurm's own reason."""
    partition = profile.partition
    flags = ["--noheader", "--format=%P %D nodes, %c CPUs, GPUs %G, limit %l"]
    offer = call(["sinfo", *flags, *([f"--partition={partition}"] if partition else [])]).strip()
    if not offer:
        raise ConfigError.at(
            "partition",
            found=f"{partition}, which Slurm does not have",
            allowed=f"one of {', '.join(call(['sinfo', '--noheader', '--format=%R']).split())}",
            remedy="Correct the profile, or give --set partition=NAME.",
        )
    script = render(
        "slurm/job.sbatch.j2", name="check", profile=profile, folder="", scripts=[""] * num_tasks, restarts=0
    )
    lines = script.splitlines()
    header = "\n".join([lines[0], *(line for line in lines if line.startswith("#SBATCH")), "true", ""])
    wanted = f"{profile.nodes} nodes of {profile.cpus_per_node} CPUs, {profile.gpus_per_node} GPUs"
    remedy = f"Slurm offers: {'; '.join(' '.join(line.split()) for line in offer.splitlines())}."
    call(["sbatch", "--test-only", "--parsable"], text=header, where=f"profile ({wanted})", remedy=remedy)


def current_id(submission: Submission) -> str:
    """Return the id of the job that goes on with the run now: the last successor, if there were any."""
    successors = Path(submission.folder) / "successors"
    lines = successors.read_text().split() if successors.exists() else []
    return lines[-1].partition(";")[0] if lines else submission.job_id


def log_paths(submission: Submission) -> Sequence[Path]:
    """Return the files that the job prints to, of every task."""
    folder, num = Path(submission.folder), submission.settings["num_tasks"]
    return [folder / f"output-{task}.log" for task in range(num)] if num > 1 else [folder / "output.log"]


class _Tail:
    """A file that grows."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0

    def read(self) -> list[str]:
        """Return the whole lines that are new."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as stream:
            stream.seek(self.position)
            new = stream.read()
        whole = new.rfind(b"\n") + 1
        self.position += whole
        return new[:whole].decode(errors="replace").split("\n")[:-1]


def _new_lines(tails: Sequence[_Tail]) -> Iterator[str]:
    for tail in tails:
        for line in tail.read():
            yield line if len(tails) == 1 else f"[{tail.path.stem.removeprefix('output-')}] {line}"


def _pattern(path: Path) -> str:
    """Return a path as Slurm's patterns read it: a lone % would begin a replacement."""
    folder = str(path.parent).replace("%", "%%")
    return f"{folder}/{path.name}"
