"""From a recipe to a job: resolve, check, plan, hand over."""

import dataclasses
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError
from sisa_scale.launching.launcher import ArrayLauncher, Ended, PlannedJob
from sisa_scale.launching.profiles.profile import Profile
from sisa_scale.launching.registry import launcher_for, launcher_of
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.study_lines import read_study_lines
from sisa_scale.launching.submission import (
    Job,
    Submission,
    check_same_run,
    new_folder,
    resume_overrides,
    submissions,
)
from sisa_scale.planning.twins import load_recipe


def plan(recipe: str, overrides: tuple[str, ...], profile: Profile, reporter: Reporter) -> PlannedJob:
    """Resolve a recipe for a profile; raises ConfigError or DataError for what can be known before it is queued."""
    overrides = (*profile.resource_overrides, *overrides)
    config = load_recipe(recipe, overrides).config
    job = _resolve(config, overrides, profile, reporter)
    return launcher_for(profile).plan(job, new_folder(config.directory), profile)


def plan_list(path: str, overrides: tuple[str, ...], profile: Profile, reporter: Reporter) -> PlannedJob:
    """Resolve a list of runs as one array of jobs.

    Raises ConfigError where there are no arrays, and when two runs share a directory.
    """
    launcher = launcher_for(profile)
    if not isinstance(launcher, ArrayLauncher):
        raise ConfigError.at(
            "--study",
            found=f"--to {profile.target}",
            allowed="job arrays of Slurm",
            remedy="Submit the runs one by one.",
        )
    jobs: list[Job] = []
    for number, (recipe, own) in enumerate(read_study_lines(Path(path))):
        all_overrides = (*profile.resource_overrides, *own, *overrides)
        job = _resolve(load_recipe(recipe, all_overrides).config, all_overrides, profile, reporter)
        taken = [earlier for earlier in jobs if earlier.config.directory == job.config.directory]
        if taken:
            raise ConfigError.at(
                f"{path}, run {number + 1}",
                found=f"the run directory {job.config.directory} of an earlier line",
                allowed="every run has a directory of its own",
                remedy="Add name=NAME or run_dir=PATH to the line.",
            )
        jobs.append(dataclasses.replace(job, recipe=f"recipe-{number}.yaml", script=f"start-{number}.sh"))
    name = Path(path).stem
    return launcher.plan_array(name, tuple(jobs), new_folder(Path("runs") / name), profile)


def _resolve(config: RunConfig, overrides: tuple[str, ...], profile: Profile, reporter: Reporter) -> Job:
    launcher = launcher_for(profile)
    check_workers(config, profile, reporter)
    config = launcher.resolve(config, profile)
    job = Job(config, resume_overrides(config, overrides))
    launcher.check_inputs(config, reporter)
    if launcher.shares_files and check_same_run(config):
        told = shlex.join(job.overrides)
        reporter.announce(f"{config.directory} exists: the run continues with its own recipe and {told}")
    return job


def check_workers(config: RunConfig, profile: Profile, reporter: Reporter) -> None:
    """Raise ConfigError when the run asks for more workers than the profile's nodes hold; say when it asks for less."""
    if profile.allocation is None:
        return
    nodes, workers_per_node = profile.allocation
    if config.resources.workers > nodes * workers_per_node:
        raise ConfigError.at(
            "resources.workers",
            found=str(config.resources.workers),
            allowed=f"{nodes} nodes x {workers_per_node} workers_per_node of the profile",
            remedy="Lower it, or raise nodes: --set nodes=N.",
        )
    if config.resources.workers < nodes * workers_per_node:
        idle = nodes * workers_per_node - config.resources.workers
        reporter.announce(f"{config.name}: {config.resources.workers} workers; the nodes have places for {idle} more")


def living_submissions(run_dir: Path, reporter: Reporter) -> Iterator[tuple[Submission, str]]:
    """Yield the submissions of a run or study that are not over, the newest first, with their states."""
    for submission in submissions(run_dir):
        launcher = launcher_of(submission)
        try:
            state = launcher.state(submission)
        except ConfigError as error:
            reporter.announce(f"job {submission.job_id} cannot be asked after: {error}")
            continue
        if not launcher.is_over(state):
            yield submission, state


def refuse_second(run_dirs: Iterable[Path], reporter: Reporter) -> None:
    """Raise ConfigError while a submission of one of the runs waits or runs: two would write the same files."""
    for run_dir in run_dirs:
        for submission, state in living_submissions(run_dir, reporter):
            raise ConfigError.at(
                run_dir,
                found=f"job {submission.job_id} of {submission.target}, which is {state}",
                allowed="one job of a run at a time",
                remedy=f"Follow it with `sisa-scale logs {run_dir} --follow`, or `sisa-scale cancel` it first.",
            )


def send(planned: PlannedJob, reporter: Reporter) -> Submission | Ended:
    """Hand a job over, unless an earlier one of the same run is at work; raises ConfigError then."""
    refuse_second(planned.run_dirs, reporter)
    handed = planned.submit(reporter)
    if isinstance(handed, Submission):
        reporter.submitted(handed)
    return handed
