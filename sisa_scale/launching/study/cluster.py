"""The pieces of a study as jobs: with arrays, one of trunks and one of branches that waits for it.

Other places have no such order: a job for each piece, and branches when their trunk is there.
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
from sisa_scale.studies.state import PieceStatus
from sisa_scale.studies.trial import Piece


def hand_over(
    directory: StudyDirectory,
    chosen: Sequence[Piece],
    states: Sequence[PieceStatus],
    launcher: ClusterLauncher[Any],
    profile: Profile,
    *,
    dry_run: bool,
    reporter: Reporter,
) -> None:
    """Submit pieces; raises ConfigError for what can be known before anything is queued."""
    for piece in chosen:
        check_workers(piece.config, profile, reporter)
    if not launcher.shares_files and any(piece.role == "branch" for piece in chosen):
        raise ConfigError.at(
            "schedule.trunk",
            found=f"branches, with --to {profile.target}",
            allowed="a branch begins from files of its trunk, which the pods of another job do not see from here",
            remedy="Write schedule.trunk=false: every run then stands alone.",
        )
    if isinstance(launcher, ArrayLauncher):
        _hand_over_arrays(directory, chosen, launcher, profile, dry_run=dry_run, reporter=reporter)
        return
    state_of = {status.piece.name: status.state for status in states}
    for piece in chosen:
        if state_of[piece.name] in ("waiting", "running"):
            reporter.announce(f"{piece.name} is {state_of[piece.name]}: submit again later")
            continue
        # Where this machine sees the run, its own directory knows its jobs, whoever submits them.
        notes = piece.directory if launcher.shares_files else directory.path / "submissions" / piece.name
        planned = launcher.plan(_job(directory, piece, launcher, profile), new_folder(notes), profile)
        if dry_run:
            reporter.announce(planned.describe())
        else:
            send(planned, reporter)


def _hand_over_arrays(
    directory: StudyDirectory,
    chosen: Sequence[Piece],
    launcher: ArrayLauncher[Any],
    profile: Profile,
    *,
    dry_run: bool,
    reporter: Reporter,
) -> None:
    before: str | None = None
    refuse_second((directory.path, *(piece.directory for piece in chosen)), reporter)
    for stage, pieces in (
        ("runs", [piece for piece in chosen if piece.role != "branch"]),
        ("branches", [piece for piece in chosen if piece.role == "branch"]),
    ):
        if not pieces:
            continue
        jobs = tuple(
            dataclasses.replace(
                _job(directory, piece, launcher, profile), recipe=f"recipe-{i}.yaml", script=f"start-{i}.sh"
            )
            for i, piece in enumerate(pieces)
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


def _job(directory: StudyDirectory, piece: Piece, launcher: ClusterLauncher[Any], profile: Profile) -> Job:
    first: tuple[str, ...] = ()
    if piece.role == "branch":
        first = ("sisa-scale", "study", "branch", str(directory.path.resolve()), piece.name)
    return Job(launcher.resolve(piece.config, profile), (), first=first)
