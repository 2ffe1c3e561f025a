"""A job of Slurm: its script, `cluster/slurm/job.sbatch.j2`, and its submission."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sisa_scale.errors import ConfigError
from sisa_scale.launching.profiles.slurm import SlurmProfile
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.shell import call
from sisa_scale.launching.submission import Job, Submission, job_name, note_runs, save_submission, write_files
from sisa_scale.launching.templates import render

_SCRIPT = "job.sbatch"
_TEMPLATE = "slurm/job.sbatch.j2"
_ID = re.compile(r"(\d+)(;\S+)?")


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """Everything that a submission writes and runs; several jobs make an array. after: the job that ends first."""

    name: str
    folder: Path
    directory: Path
    jobs: tuple[Job, ...]
    profile: SlurmProfile
    after: str | None = None

    @property
    def run_dirs(self) -> tuple[Path, ...]:
        """The directories of its runs."""
        return tuple(job.config.directory for job in self.jobs)

    def files(self) -> dict[str, str]:
        """Return the files of the submission by name."""
        files = {_SCRIPT: self._script()}
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
        check_allocation(self.profile, self._script())
        write_files(self.folder, self.files())
        runs = [{"run_dir": str(job.config.directory), "overrides": list(job.overrides)} for job in self.jobs]
        settings = {"num_tasks": len(self.jobs), "runs": runs}
        submission = save_submission(self.folder, "slurm", self._submitted_id(), settings)
        if len(self.jobs) > 1 or self.folder.parent.parent != self.run_dirs[0].absolute():
            note_runs(submission, self.run_dirs)
        return submission

    def _script(self) -> str:
        runs = [_run_values(job, self.profile) for job in self.jobs]
        return render(
            _TEMPLATE,
            name=job_name(self.name),
            profile=self.profile,
            folder=str(self.folder),
            runs=runs,
            # A container of pyxis lacks the commands that put a job back when its first node is gone.
            outlives_nodes=not (self.profile.container and self.profile.container.runtime == "pyxis")
            and any(run["least_nodes"] < self.profile.nodes for run in runs),
            restarts=0,
        )

    def _submitted_id(self) -> str:
        answer = call(self.command())
        ids = [found[1] for found in map(_ID.fullmatch, map(str.strip, answer.splitlines())) if found]
        if not ids:
            raise ConfigError.at(
                "sbatch --parsable",
                found=" ".join(answer.split()) or "no answer",
                allowed="a line with the id of the job",
                remedy="Look at `squeue --me`; a wrapper of sbatch must hand Slurm's own answer on.",
            )
        return ids[-1]


def check_allocation(profile: SlurmProfile, script: str | None = None) -> None:
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
    if script is None:
        one = {"script": "", "directory": "", "least_nodes": profile.nodes}
        values = {"name": "check", "profile": profile, "folder": "", "runs": [one], "restarts": 0}
        script = render(_TEMPLATE, **values, outlives_nodes=False)
    lines = script.splitlines()
    header = "\n".join([lines[0], *(line for line in _directives(lines)), "true", ""])
    wanted = f"{profile.nodes} nodes of {profile.cpus_per_node} CPUs, {profile.gpus_per_node} GPUs"
    remedy = f"Slurm offers: {'; '.join(' '.join(line.split()) for line in offer.splitlines())}."
    call(["sbatch", "--test-only", "--parsable"], text=header, where=f"profile ({wanted})", remedy=remedy)


def _directives(lines: list[str]) -> list[str]:
    end = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    return [line for line in lines[:end] if line.startswith("#SBATCH")]


def _run_values(job: Job, profile: SlurmProfile) -> dict[str, Any]:
    """Return what the script asks of one run. least_nodes: without so many of them no worker can go on."""
    resources = job.config.resources
    workers = resources.min_workers or resources.workers
    least = min(-(-workers // profile.num_workers_per_node), profile.nodes)
    return {"script": job.script, "directory": str(job.config.directory), "least_nodes": least}


def _pattern(path: Path) -> str:
    """Return a path as Slurm's patterns read it: a lone % would begin a replacement."""
    folder = str(path.parent).replace("%", "%%")
    return f"{folder}/{path.name}"
