"""The trials of a study as jobs: with arrays, one of trunks and one of branches that waits for it.

Other places have no such order: a job for each trial, and branches when their trunk is there.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from sisa_scale.errors import ConfigError
from sisa_scale.launching.launcher import ArrayLauncher, ClusterLauncher
from sisa_scale.launching.profiles.profile import Profile
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.submission import Job, Submission, new_folder
from sisa_scale.launching.submit import check_workers, refuse_second, send
from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.studies.state import TrialStatus
from sisa_scale.studies.trial import Trial


def hand_over(
    directory: StudyDirectory,
    chosen: Sequence[Trial],
    states: Sequence[TrialStatus],
    launcher: ClusterLauncher[Any],
    profile: Profile,
    *,
    dry_run: bool,
    reporter: Reporter,
) -> None:
    """Submit trials; raises ConfigError for what can be known before anything is queued."""
    for trial in chosen:
        check_workers(trial.config, profile, reporter)
    if not launcher.shares_files and any(trial.role == "tuning" for trial in chosen):
        raise ConfigError.at(
            "learning_rate.sweep",
            found=f"tuning trials, with --to {profile.target}",
            allowed="rates are chosen from run directories that this machine sees",
            remedy="Tune elsewhere, and write learning_rate.value.",
        )
    if not launcher.shares_files and any(trial.role == "branch" for trial in chosen):
        raise ConfigError.at(
            "schedule.trunk",
            found=f"branches, with --to {profile.target}",
            allowed="a branch begins from files of its trunk, which the pods of another job do not see from here",
            remedy="Write schedule.trunk=false: every run then stands alone.",
        )
    if isinstance(launcher, ArrayLauncher):
        _hand_over_arrays(directory, chosen, launcher, profile, dry_run=dry_run, reporter=reporter)
        return
    state_of = {status.trial.name: status.state for status in states}
    for trial in chosen:
        if state_of[trial.name] in ("waiting", "running"):
            reporter.announce(f"{trial.name} is {state_of[trial.name]}: submit again later")
            continue
        # Where this machine sees the run, its own directory knows its jobs, whoever submits them.
        notes = trial.directory if launcher.shares_files else directory.path / "submissions" / trial.name
        planned = launcher.plan(_job(directory, trial, launcher, profile), new_folder(notes), profile)
        if dry_run:
            reporter.announce(planned.describe())
        else:
            send(planned, reporter)


def _hand_over_arrays(
    directory: StudyDirectory,
    chosen: Sequence[Trial],
    launcher: ArrayLauncher[Any],
    profile: Profile,
    *,
    dry_run: bool,
    reporter: Reporter,
) -> None:
    before: str | None = None
    refuse_second((directory.path, *(trial.directory for trial in chosen)), reporter)
    for stage, trials in (
        ("runs", [trial for trial in chosen if trial.role != "branch"]),
        ("branches", [trial for trial in chosen if trial.role == "branch"]),
    ):
        if not trials:
            continue
        jobs = tuple(
            dataclasses.replace(
                _job(directory, trial, launcher, profile), recipe=f"recipe-{i}.yaml", script=f"start-{i}.sh"
            )
            for i, trial in enumerate(trials)
        )
        launcher.check_inputs(jobs[0].config, reporter)
        name = f"{directory.path.name}-{stage}"
        planned = launcher.plan_array(name, jobs, new_folder(directory.path), profile, after=before)
        if dry_run:
            reporter.announce(planned.describe())
            continue
        submission = planned.submit(reporter)
        assert isinstance(submission, Submission)
        before = submission.job_id
        reporter.announce(f"{len(jobs)} {stage}: job {submission.job_id}, files in {submission.folder}")


def _job(directory: StudyDirectory, trial: Trial, launcher: ClusterLauncher[Any], profile: Profile) -> Job:
    first: tuple[str, ...] = ()
    if trial.role == "branch":
        first = ("sisa-scale", "study", "branch", str(directory.path.resolve()), trial.name)
    return Job(launcher.resolve(trial.config, profile), (), first=first)
