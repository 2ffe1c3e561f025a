"""What `submit` does once the command line is read: resolve, check, hand over, say where it is."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sisa_scale.cli.console import announce, console
from sisa_scale.cli.following import follow_logs, is_over, job_state
from sisa_scale.cli.starting import check_inputs, with_absolute_paths
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError
from sisa_scale.launching.kubernetes import KubernetesJob, in_the_pods
from sisa_scale.launching.profiles.kubernetes import KubernetesProfile
from sisa_scale.launching.profiles.profile import LocalProfile, Profile, RayProfile
from sisa_scale.launching.profiles.slurm import SlurmProfile
from sisa_scale.launching.ray import RayJob
from sisa_scale.launching.slurm import SlurmJob
from sisa_scale.launching.study_lines import read_study_lines
from sisa_scale.launching.submission import (
    Job,
    Submission,
    check_same_run,
    check_visible,
    job_name,
    new_folder,
    newest_submission,
    resume_overrides,
)
from sisa_scale.planning.twins import load_recipe
from sisa_scale.runs.layout import JOBS, holds_run


class Planned(Protocol):
    """A job that has been checked as far as it can be from here."""

    @property
    def folder(self) -> Path | None:
        """The folder of the submission, None for one that needs none."""
        ...

    def describe(self) -> str:
        """Return exactly what would be written and run."""
        ...

    def submit(self) -> Submission | None:
        """Hand it over; raises ConfigError. None when it has ended already."""
        ...


@dataclass(frozen=True)
class LocalJob:
    """A run in this process."""

    config: RunConfig
    overrides: tuple[str, ...]
    folder: Path | None = None

    def describe(self) -> str:
        """Return the command of the same effect."""
        run_dir = str(self.config.directory)
        if holds_run(self.config.directory):
            return shlex.join(["sisa-scale", "resume", run_dir, *self.overrides])
        return f"# the recipe with its overrides resolved, then: sisa-scale train into {shlex.quote(run_dir)}"

    def submit(self) -> None:
        """Run it to its end."""
        from sisa_scale.cli.running import run_to_end
        from sisa_scale.cli.starting import begin, reopen

        if holds_run(self.config.directory):
            run_to_end(reopen(self.config.directory, self.overrides))
        else:
            run_to_end(begin(self.config))


def plan(recipe: str, overrides: tuple[str, ...], profile: Profile) -> Planned:
    """Resolve a recipe for a profile; raises ConfigError or DataError for what can be known before it is queued."""
    all_overrides = (*profile.resource_overrides, *overrides)
    config = load_recipe(recipe, all_overrides).config
    check_workers(config, profile)
    here = config.directory
    if isinstance(profile, KubernetesProfile):
        config = in_the_pods(config, profile)
        job = Job(config, resume_overrides(config, all_overrides))
        return KubernetesJob(job_name(config.name), new_folder(here), job, profile)
    config = with_absolute_paths(config)
    job = Job(config, resume_overrides(config, all_overrides))
    if isinstance(profile, SlurmProfile):
        check_visible(config, profile.node_local_paths)
    if isinstance(profile, RayProfile) and not _is_data_here(config):
        announce("the data set is not visible from here: the job itself will check it")
    else:
        check_inputs(config)
    if check_same_run(config):
        announce(f"{config.directory} exists: the run continues with its own recipe and {shlex.join(job.overrides)}")
    if isinstance(profile, LocalProfile):
        return LocalJob(config, job.overrides)
    if isinstance(profile, RayProfile):
        return RayJob(new_folder(here), job, profile)
    return SlurmJob(config.name, new_folder(here), Path.cwd(), (job,), profile)


def plan_study(path: str, overrides: tuple[str, ...], profile: Profile) -> Planned:
    """Resolve a list of runs as one array of jobs; raises ConfigError when two of them share a directory."""
    assert isinstance(profile, SlurmProfile), "a study is an array of Slurm"
    jobs: list[Job] = []
    for number, (recipe, own) in enumerate(read_study_lines(Path(path))):
        planned = plan(recipe, (*own, *overrides), profile)
        assert isinstance(planned, SlurmJob)
        job = dataclasses.replace(planned.jobs[0], recipe=f"recipe-{number}.yaml", script=f"start-{number}.sh")
        taken = [earlier for earlier in jobs if earlier.config.directory == job.config.directory]
        if taken:
            raise ConfigError.at(
                f"{path}, run {number + 1}",
                found=f"the run directory {job.config.directory} of an earlier line",
                allowed="every run has a directory of its own",
                remedy="Add name=NAME or run_dir=PATH to the line.",
            )
        jobs.append(job)
    name = Path(path).stem
    return SlurmJob(name, new_folder(Path("runs") / name), Path.cwd(), tuple(jobs), profile)


def check_workers(config: RunConfig, profile: Profile) -> None:
    """Raise ConfigError when the run asks for more workers than the profile's nodes hold."""
    if not isinstance(profile, SlurmProfile | KubernetesProfile):
        return
    room = profile.nodes * profile.num_workers_per_node
    if config.resources.workers > room:
        raise ConfigError.at(
            "resources.workers",
            found=str(config.resources.workers),
            allowed=f"{profile.nodes} nodes x {profile.num_workers_per_node} workers_per_node of the profile",
            remedy="Lower it, or raise nodes: --set nodes=N.",
        )


def refuse_second(folder: Path | None) -> None:
    """Raise ConfigError while an earlier submission of the same run waits or runs: two would write the same files."""
    run_dir = folder.parent.parent if folder is not None else None
    if run_dir is None or not (run_dir / JOBS).exists():
        return
    submission = newest_submission(run_dir)
    try:
        state = job_state(submission)
    except ConfigError as error:
        announce(f"job {submission.job_id} cannot be asked after: {error}")
        return
    if not is_over(submission.target, state):
        raise ConfigError.at(
            run_dir,
            found=f"job {submission.job_id} of {submission.target}, which is {state}",
            allowed="one job of a run at a time",
            remedy=f"Follow it with `sisa-scale logs {run_dir} --follow`, or `sisa-scale cancel` it first.",
        )


def send(planned: Planned, directory: Path, *, follow: bool) -> None:
    """Submit and say how to follow; exits with the code of the job when it is followed."""
    refuse_second(planned.folder)
    submission = planned.submit()
    if submission is None:
        return
    run_dir = Path(submission.folder).parent.parent
    shown = run_dir.relative_to(directory) if run_dir.is_relative_to(directory) else run_dir
    rows = [("job", f"{submission.job_id} ({submission.target})"), ("files", submission.folder)]
    rows += [(verb, f"sisa-scale {verb} {shlex.quote(str(shown))}") for verb in ("logs", "cancel")]
    for label, value in rows:
        console.print(f"[bold]{label:<7}[/bold] {value}", soft_wrap=True, markup=True)
    if follow:
        sys.exit(follow_logs(submission))


def _is_data_here(config: RunConfig) -> bool:
    paths: Sequence[str] = [source.path for source in config.data.sources.values()]
    return all("://" in path or Path(path).exists() for path in paths)
