"""Printing what a submitted job prints, wherever it runs."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from sisa_scale.cli.console import announce
from sisa_scale.launching import kubernetes, slurm
from sisa_scale.launching import ray as ray_jobs
from sisa_scale.launching.submission import Submission

_POLL_SECONDS = 1.0
_STATE_SECONDS = 5.0  # between questions to the scheduler


def job_state(submission: Submission) -> str:
    """Return the state of a job in the words of its scheduler."""
    ask = {"slurm": slurm.state, "ray": ray_jobs.state, "kubernetes": kubernetes.state}[submission.target]
    return ask(submission)


def is_over(target: str, state: str) -> bool:
    """Whether nothing more will come of a job in this state."""
    return {"slurm": slurm.is_over, "ray": ray_jobs.is_over, "kubernetes": kubernetes.is_over}[target](state)


def cancel_job(submission: Submission, *, at_once: bool) -> None:
    """Tell a job to save and stop, or end it at once."""
    end = {"slurm": slurm.cancel, "ray": ray_jobs.cancel, "kubernetes": kubernetes.cancel}[submission.target]
    end(submission, at_once=at_once)


def follow_logs(submission: Submission) -> int:
    """Print what a job prints until it is over; returns 0 when it succeeded, else 1."""
    if submission.target == "ray":
        return ray_jobs.follow(submission, click.echo)
    if submission.target == "kubernetes":
        return kubernetes.follow(submission, click.echo)
    tails = [_Tail(path) for path in slurm.log_paths(submission)]
    asked, state = 0.0, "PENDING"
    while True:
        for line in _lines(tails):
            click.echo(line, nl=False)
        if slurm.is_over(state):
            announce(f"job {slurm.current_id(submission)}: {state}")
            return 0 if state in ("COMPLETED", "GONE") else 1
        if time.monotonic() - asked > _STATE_SECONDS:
            asked, before, state = time.monotonic(), state, slurm.state(submission)
            if state != before:
                announce(f"job {slurm.current_id(submission)}: {state}")
        time.sleep(_POLL_SECONDS)


def print_logs(submission: Submission) -> None:
    """Print what a job has printed so far."""
    if submission.target == "ray":
        click.echo(ray_jobs.logs(submission), nl=False)
    elif submission.target == "kubernetes":
        click.echo(kubernetes.logs(submission), nl=False)
    else:
        for line in _lines([_Tail(path) for path in slurm.log_paths(submission)]):
            click.echo(line, nl=False)


class _Tail:
    """A file that grows."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0

    def read(self) -> list[str]:
        """Return the lines that are new."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as stream:
            stream.seek(self.position)
            new = stream.read()
        whole = new.rfind(b"\n") + 1
        self.position += whole
        return new[:whole].decode(errors="replace").splitlines(keepends=True)


def _lines(tails: Sequence[_Tail]) -> Iterator[str]:
    for tail in tails:
        for line in tail.read():
            yield line if len(tails) == 1 else f"[{tail.path.stem.removeprefix('output-')}] {line}"
