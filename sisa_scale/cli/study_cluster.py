"""The pieces of a study as jobs: on Slurm an array of trunks and an array of branches that waits for it.

Ray and Kubernetes have no such order: a job for each piece, and branches when their trunk is there.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from sisa_scale.cli.console import announce
from sisa_scale.cli.starting import check_inputs, with_absolute_paths
from sisa_scale.cli.submitting import Planned, check_workers, refuse_second, send
from sisa_scale.errors import ConfigError
from sisa_scale.launching.kubernetes import KubernetesJob, in_the_pods
from sisa_scale.launching.profiles.kubernetes import KubernetesProfile
from sisa_scale.launching.profiles.profile import RayProfile
from sisa_scale.launching.profiles.slurm import SlurmProfile
from sisa_scale.launching.ray import RayJob
from sisa_scale.launching.slurm import SlurmJob
from sisa_scale.launching.submission import Job, check_visible, job_name, new_folder
from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.studies.state import PieceStatus
from sisa_scale.studies.trial import Piece

ClusterProfile = SlurmProfile | RayProfile | KubernetesProfile


def hand_over(
    directory: StudyDirectory,
    chosen: Sequence[Piece],
    states: Sequence[PieceStatus],
    profile: ClusterProfile,
    *,
    dry_run: bool,
) -> None:
    """Submit pieces; raises ConfigError for what can be known before anything is queued."""
    state_of = {status.piece.name: status.state for status in states}
    for piece in chosen:
        check_workers(piece.config, profile)
    if isinstance(profile, KubernetesProfile) and any(piece.role == "branch" for piece in chosen):
        raise ConfigError.at(
            "schedule.trunk",
            found="branches, with --to kubernetes",
            allowed="a branch begins from files of its trunk, which the pods of another job do not see from here",
            remedy="Write schedule.trunk=false: every run then stands alone.",
        )
    if isinstance(profile, SlurmProfile):
        _hand_to_slurm(directory, chosen, profile, dry_run=dry_run)
        return
    for piece in chosen:
        if state_of[piece.name] in ("waiting", "running"):
            announce(f"{piece.name} is {state_of[piece.name]}: submit again later")
            continue
        folder = new_folder(directory.path / "submissions" / piece.name)
        planned: Planned
        if isinstance(profile, KubernetesProfile):
            job = Job(in_the_pods(piece.config, profile), ())
            planned = KubernetesJob(job_name(piece.config.name), folder, job, profile)
        else:
            planned = RayJob(folder, _job(directory, piece), profile)
        _show_or_send(planned, dry_run=dry_run)


def _hand_to_slurm(directory: StudyDirectory, chosen: Sequence[Piece], profile: SlurmProfile, *, dry_run: bool) -> None:
    before: str | None = None
    refuse_second(new_folder(directory.path))
    for stage, pieces in (
        ("runs", [piece for piece in chosen if piece.role != "branch"]),
        ("branches", [piece for piece in chosen if piece.role == "branch"]),
    ):
        if not pieces:
            continue
        jobs = tuple(
            dataclasses.replace(_job(directory, piece), recipe=f"recipe-{i}.yaml", script=f"start-{i}.sh")
            for i, piece in enumerate(pieces)
        )
        for job in jobs:
            check_visible(job.config, profile.node_local_paths)
        check_inputs(jobs[0].config)
        name = f"{directory.path.name}-{stage}"
        planned = SlurmJob(name, new_folder(directory.path), Path.cwd(), jobs, profile, before)
        if dry_run:
            announce(planned.describe())
            continue
        submission = planned.submit()
        before = submission.job_id
        announce(f"{len(jobs)} {stage}: job {submission.job_id}, files in {submission.folder}")


def _job(directory: StudyDirectory, piece: Piece) -> Job:
    first: tuple[str, ...] = ()
    if piece.role == "branch":
        first = ("sisa-scale", "study", "branch", str(directory.path.resolve()), piece.name)
    return Job(with_absolute_paths(piece.config), (), first=first)


def _show_or_send(planned: Planned, *, dry_run: bool) -> None:
    if dry_run:
        announce(planned.describe())
    else:
        send(planned, Path.cwd(), follow=False)
