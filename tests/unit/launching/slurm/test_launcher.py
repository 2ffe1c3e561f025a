import dataclasses
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hostile import HOSTILE

from sisa_scale.config.duration import Duration
from sisa_scale.config.run import RunConfig
from sisa_scale.launching.profiles.load import load_profile
from sisa_scale.launching.profiles.slurm import SlurmProfile
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.slurm.job import SlurmJob
from sisa_scale.launching.slurm.launcher import SlurmLauncher, current_ids
from sisa_scale.launching.submission import Job, Submission, newest_submission
from sisa_scale.runs.attempts import Attempt, write_attempts

LAUNCHER = SlurmLauncher()


class Heard(Reporter):
    """Keeps what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        super().__init__(lambda text: self.told.append(f"({text})"))

    def line(self, text: str) -> None:
        self.told.append(text)


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
@pytest.mark.parametrize(
    "extra",
    [(), ("container.runtime=apptainer", "container.image=/a b.sif"), ("container.runtime=pyxis", "container.image=x")],
)
def test_slurm_scripts_are_bash_and_directives_hold_no_value_of_a_recipe(
    profile: str, extra: tuple[str, ...], config: RunConfig, tmp_path: Path
) -> None:
    loaded = load_profile("slurm", profile, [*extra, f"environment={json.dumps(['A=' + value for value in HOSTILE])}"])
    assert isinstance(loaded, SlurmProfile)
    folder = tmp_path / 'it"s a\n#SBATCH --wrap=$(touch injected)'
    job = SlurmJob("a\n#SBATCH --wrap=x", folder, tmp_path, (Job(config, ("name=$(x)",)),) * 2, loaded)
    script = job.files()["job.sbatch"]
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    directives = [line for line in script.split("\n\n")[0].splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --array=0-1%8" in directives
    assert not any("--wrap" in line or " " in line.removeprefix("#SBATCH ") for line in directives)


def test_directives_end_before_the_first_value(config: RunConfig, tmp_path: Path) -> None:
    """Slurm reads directives up to the first command: a later line that looks like one is none."""
    loaded = load_profile("slurm", "cpu")
    assert isinstance(loaded, SlurmProfile)
    script = SlurmJob("x", tmp_path / "a\n#SBATCH --wrap=x", tmp_path, (Job(config, ()),), loaded).files()["job.sbatch"]
    assert script.index("set -o pipefail") < script.index("#SBATCH --wrap")


def test_logs_are_whole_lines_and_name_the_task_of_an_array(tmp_path: Path) -> None:
    one = Submission("slurm", "7", str(tmp_path), {"num_tasks": 1})
    assert LAUNCHER.logs(one) == ""
    (tmp_path / "output.log").write_bytes(b"a\nb\rc\xff\nhalf")
    assert LAUNCHER.logs(one) == "a\nb\rc\ufffd\n"
    (tmp_path / "output-1.log").write_text("second\n")
    assert LAUNCHER.logs(Submission("slurm", "7", str(tmp_path), {"num_tasks": 2})) == "[1] second\n"


@pytest.mark.parametrize(("last", "succeeded"), [("COMPLETED", True), ("FAILED", False)])
def test_following_tells_states_of_the_last_successor_and_every_line(
    last: str, succeeded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `squeue` of our own: the job runs, writes, and is over the next time it is asked after."""
    (tmp_path / "squeue").write_text(
        f"""#!/bin/bash
cd {tmp_path}
line="sisa-scale-job 9"
[[ $* == *--jobs=9 ]] || exit 1
if [ -e asked ]; then echo "$line {last} None"; else
  touch asked; echo Welcome; echo "$line RUNNING None"; echo line >> output.log; fi
"""
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("sisa_scale.launching.slurm.launcher._POLL_SECONDS", 0.01)
    monkeypatch.setattr("sisa_scale.launching.slurm.launcher._STATE_SECONDS", 0.0)
    (tmp_path / "successors").write_text("8;cluster\n9;cluster\n")
    heard = Heard()
    assert LAUNCHER.follow(Submission("slurm", "7", str(tmp_path), {"num_tasks": 1}), heard) is succeeded
    assert heard.told == ["(job 9: RUNNING)", "line", f"(job 9: {last})", f"(job 9: {last})"]


@pytest.mark.parametrize(
    ("outcome", "reached", "overrides", "has_finished"),
    [
        ("finished", 4, [], True),
        ("preempted", 3, [], False),
        ("finished", 4, ["total=5 steps"], False),  # the job that was to go on did not
        (None, 0, [], False),
    ],
)
def test_a_job_that_slurm_has_forgotten_is_judged_by_its_run(
    outcome: str | None, reached: int, overrides: list[str], has_finished: bool, tmp_path: Path, config: RunConfig
) -> None:
    run_dir, bin_dir = tmp_path / "run", tmp_path / "bin"
    (run_dir / "jobs" / "0001").mkdir(parents=True)
    bin_dir.mkdir()
    lengths = {"total": "4 steps", "warmup": "1 steps", "decay": "1 steps"}
    short = dataclasses.replace(config.schedule, **{key: Duration.parse(text) for key, text in lengths.items()})
    here = dataclasses.replace(config, run_dir=str(run_dir), schedule=short)
    (run_dir / "config.yaml").write_text(Job(here, ()).files()["recipe.yaml"])
    began = datetime.now(tz=UTC)
    if outcome is not None:
        line = Attempt(attempt=1, world_size=1, zero_stage=1, started=began, outcome=outcome, reached_step=reached)
        write_attempts(run_dir, [line])
    (bin_dir / "squeue").write_text("#!/bin/bash\necho slurm_load_jobs error: Invalid job id specified >&2; exit 1\n")
    (bin_dir / "squeue").chmod(0o755)
    runs = [{"run_dir": str(run_dir), "overrides": overrides}]
    note = Submission("slurm", "7", str(run_dir / "jobs" / "0001"), {"num_tasks": 1, "runs": runs})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{bin_dir}:/usr/bin:/bin")
        patch.setattr("sisa_scale.launching.slurm.launcher._POLL_SECONDS", 0.0)
        patch.setattr("sisa_scale.launching.slurm.launcher._STATE_SECONDS", 0.0)
        assert LAUNCHER.follow(note, Heard()) is has_finished


def test_every_task_goes_on_in_its_newest_successor(tmp_path: Path) -> None:
    note = Submission("slurm", "7", str(tmp_path), {"num_tasks": 3})
    assert current_ids(note) == ["7"]
    (tmp_path / "successors").write_text("1 8\n1 9\n2 10\n")
    assert current_ids(note) == ["7_0", "9_1", "10_2"]
    assert current_ids(dataclasses.replace(note, settings={"num_tasks": 3, "task": 1})) == ["9_1"]
    assert current_ids(dataclasses.replace(note, settings={"num_tasks": 3, "task": 0})) == ["7_0"]


def test_submit_takes_the_id_from_the_answer_and_hands_no_job_on(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, script in (
        ("sinfo", "echo cpu 1"),
        ("sbatch", f"env > {tmp_path}/environment\necho '--- 12 nodes ---'; echo 41; echo '42;here'; echo 'Have fun'"),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("SLURM_MEM_PER_CPU", "SBATCH_PARTITION", "SRUN_CPUS_PER_TASK", "SLURM_CONF", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "x")
    jobs = tuple(Job(dataclasses.replace(config, run_dir=str(tmp_path / name)), ()) for name in ("a", "b"))
    loaded = load_profile("slurm", "cpu")
    assert isinstance(loaded, SlurmProfile)
    submission = SlurmJob("x", tmp_path / "s" / "jobs" / "0001", tmp_path, jobs, loaded).submit(Reporter())
    assert submission.job_id == "42"
    handed = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert {"SLURM_CONF", "WANDB_API_KEY"} <= handed
    assert not {"SLURM_MEM_PER_CPU", "SBATCH_PARTITION", "SRUN_CPUS_PER_TASK"} & handed
    for task, name in enumerate(("a", "b")):  # each run knows the array that it is a task of
        note = newest_submission(tmp_path / name)
        assert (note.folder, note.settings["task"]) == (submission.folder, task)


@pytest.mark.parametrize(
    ("workers", "min_workers", "extra", "least", "has_no_kill"),
    [
        (4, None, [], 2, False),
        (4, 2, [], 1, True),
        (4, 3, [], 2, False),
        (2, None, [], 1, True),  # a node to spare
        (4, 2, ["container.runtime=pyxis", "container.image=x"], 1, False),
    ],
)
def test_slurm_keeps_a_job_without_a_node_only_where_its_run_goes_on(
    workers: int, min_workers: int | None, extra: list[str], least: int, has_no_kill: bool, config: RunConfig
) -> None:
    resources = dataclasses.replace(config.resources, workers=workers, min_workers=min_workers)
    loaded = load_profile("slurm", "cpu", ["nodes=2", "workers_per_node=2", *extra])
    assert isinstance(loaded, SlurmProfile)
    jobs = (Job(dataclasses.replace(config, resources=resources), ()),)
    script = SlurmJob("x", Path("/folder"), Path("/here"), jobs, loaded).files()["job.sbatch"]
    assert f"least_nodes=( {least} )" in script
    assert ("#SBATCH --no-kill" in script) is has_no_kill
