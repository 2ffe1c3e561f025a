"""Slurm: the state of a submission, its output and its end. `slurm_job.py` has the job itself.

A submission is one job or an array. With `when_interrupted: resubmit` a task goes on in other jobs, its successors,
which the script notes in the file `successors`; the newest of a task is the one that counts.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from sisa_scale.config.loading.load import load_config
from sisa_scale.config.run import RunConfig
from sisa_scale.errors import ConfigError
from sisa_scale.launching.doctor.finding import Finding
from sisa_scale.launching.doctor.network import check_interface
from sisa_scale.launching.launcher import ArrayLauncher
from sisa_scale.launching.profiles.slurm import SlurmProfile
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.shell import call
from sisa_scale.launching.slurm.job import SlurmJob, check_allocation
from sisa_scale.launching.slurm.output import new_lines, tails
from sisa_scale.launching.submission import Job, Submission, check_visible
from sisa_scale.runs.layout import config_path, holds_run
from sisa_scale.studies.state import is_finished

CANCELLED = "cancelled"
_AT_WORK = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUE", "SUSPENDED", "SIGNALING", "STAGE", "RESIZ")
_POLL_SECONDS = 1.0
_STATE_SECONDS = 5.0  # between questions to the scheduler
_MARK = "sisa-scale-job "  # what a site's wrapper prints besides does not begin so


class SlurmLauncher(ArrayLauncher[SlurmProfile]):
    """Hands runs to sbatch; several become one array."""

    def resolve(self, config: RunConfig, profile: SlurmProfile) -> RunConfig:
        """Return the config with absolute paths; raises ConfigError for one that other nodes do not see."""
        config = super().resolve(config, profile)
        check_visible(config, profile.node_local_paths)
        return config

    def plan(self, job: Job, folder: Path, profile: SlurmProfile) -> SlurmJob:
        """Return the run as a job without tasks."""
        return self.plan_array(job.config.name, (job,), folder, profile)

    def plan_array(
        self, name: str, jobs: tuple[Job, ...], folder: Path, profile: SlurmProfile, *, after: str | None = None
    ) -> SlurmJob:
        """Return runs as an array of one task each."""
        return SlurmJob(name, folder, Path.cwd(), jobs, profile, after)

    def check(self, profile: SlurmProfile) -> Iterator[Finding]:
        """Let Slurm say whether such nodes could ever be had, and look for the network that Ray is to use."""
        if profile.network_interface is not None:
            yield check_interface(profile.network_interface)
        check_allocation(profile)
        wanted = f"{profile.nodes} nodes, {profile.gpus_per_node} GPUs each, {profile.time_limit}"
        yield Finding("slurm", "ok", f"accepts {wanted}")

    def state(self, submission: Submission) -> str:
        """Return the states of its jobs in Slurm's words, `GONE` when Slurm has forgotten them."""
        texts = [f"{name} ({reason})" if name == "PENDING" else name for _, name, reason in _ask(submission)]
        return ", ".join(dict.fromkeys(texts)) or "GONE"

    def is_over(self, state: str) -> bool:
        """Whether nothing more will come of a job in this state."""
        return not any(word in state for word in _AT_WORK)

    def cancel(self, submission: Submission, *, at_once: bool) -> None:
        """Take a waiting job out of the queue; tell a running one to save and stop, or kill it `at_once`."""
        task = submission.settings.get("task")
        # The script then ends instead of going back into the queue, whatever it is doing now.
        (Path(submission.folder) / (CANCELLED if task is None else f"{CANCELLED}-{task}")).touch()
        if at_once:
            call(["scancel", *current_ids(submission)])
            return
        for word, options in (("PENDING", []), ("RUNNING", ["--batch", "--signal=USR1"])):
            jobs = [job for job, state, _ in _ask(submission) if state == word]
            if jobs:
                call(["scancel", f"--state={word}", *options, *jobs])

    def logs(self, submission: Submission) -> str:
        """Return what the jobs have printed."""
        return "".join(f"{line}\n" for line in new_lines(tails(submission)))

    def follow(self, submission: Submission, reporter: Reporter) -> bool:
        """Report new lines and states until the jobs are over; returns whether every run has finished."""
        files = tails(submission)
        asked, state = 0.0, "PENDING"
        while True:
            for line in new_lines(files):
                reporter.line(line)
            if self.is_over(state):
                reporter.announce(f"{_named(submission)}: {state}")
                return state in ("COMPLETED", "GONE") and _have_finished(submission)
            if time.monotonic() - asked > _STATE_SECONDS:
                asked, before, state = time.monotonic(), state, self.state(submission)
                if state != before:
                    reporter.announce(f"{_named(submission)}: {state}")
            time.sleep(_POLL_SECONDS)


def current_ids(submission: Submission) -> list[str]:
    """Return the jobs that go on with the runs now: the newest successor of each task, and tasks that have none."""
    task, num = submission.settings.get("task"), submission.settings["num_tasks"]
    file = Path(submission.folder) / "successors"
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    newest = {words[0] if len(words) > 1 else "-": words[-1].partition(";")[0] for words in lines if words}
    if num == 1:
        return [newest.get("-", submission.job_id)]
    if task is None and not newest:
        return [submission.job_id]
    return [
        f"{newest.get(str(number), submission.job_id)}_{number}" for number in (range(num) if task is None else (task,))
    ]


def _ask(submission: Submission) -> list[tuple[str, str, str]]:
    """Return id, state and reason of every job that Slurm still knows."""
    flags = ["--noheader", "--array", "--states=all", f"--format={_MARK}%i %T %r"]
    try:
        lines = call(["squeue", *flags, f"--jobs={','.join(current_ids(submission))}"]).splitlines()
    except ConfigError as error:
        if "Invalid job id" in str(error):
            return []
        raise
    rows = [line.removeprefix(_MARK).split(maxsplit=2) for line in lines if line.startswith(_MARK)]
    return [(job, state, "".join(reason)) for job, state, *reason in rows]


def _named(submission: Submission) -> str:
    return f"job {', '.join(current_ids(submission))}"


def _have_finished(submission: Submission) -> bool:
    """Whether the runs ended at their last step: a state of Slurm says less, and is forgotten."""
    runs, task = submission.settings.get("runs", []), submission.settings.get("task")
    return all(
        _has_finished(Path(run["run_dir"]), run["overrides"]) for run in (runs if task is None else [runs[task]])
    )


def _has_finished(run_dir: Path, overrides: list[str]) -> bool:
    if not holds_run(run_dir):
        return False
    return is_finished(run_dir, load_config(config_path(run_dir), overrides).config.total_steps)
