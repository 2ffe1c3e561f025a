import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sisa_scale.errors import ConfigError, DataError
from sisa_scale.launching.doctor.finding import Finding
from sisa_scale.launching.launcher import ClusterLauncher
from sisa_scale.launching.profiles.load import load_profile
from sisa_scale.launching.profiles.profile import Profile
from sisa_scale.launching.registry import LAUNCHERS, Entry
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.submission import Job, Submission, save_submission
from sisa_scale.launching.submit import plan, plan_list, refuse_second

SLURM = ("nodes=1", "cpus_per_worker=1", "node_local_paths=[]")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_local_job_is_a_train_and_then_a_resume_with_the_same_overrides(recipe: Path, tmp_path: Path) -> None:
    told: list[str] = []
    reporter = Reporter(told.append)

    def described() -> str:
        return plan(
            str(recipe), ("run_dir=runs/a b", "learning_rate=1e-4"), load_profile("local", None), reporter
        ).describe()

    assert described().endswith(f"sisa-scale train into '{tmp_path}/runs/a b'")
    run_dir = tmp_path / "runs" / "a b"
    run_dir.mkdir(parents=True)
    resolved = plan(str(recipe), ("run_dir=runs/a b",), load_profile("slurm", "cpu", SLURM), reporter)
    (run_dir / "config.yaml").write_text(resolved.files()["recipe.yaml"])  # type: ignore[attr-defined]
    assert described() == f"sisa-scale resume '{run_dir}' learning_rate=1e-4"
    assert told == [f"{run_dir} exists: the run continues with its own recipe and learning_rate=1e-4"]


def test_a_job_gets_the_workers_of_the_profile_and_no_more(recipe: Path) -> None:
    profile = load_profile("slurm", "cpu", [*SLURM, "workers_per_node=2"])
    assert "workers: 2" in plan(str(recipe), (), profile, Reporter()).describe()
    with pytest.raises(ConfigError, match="1 nodes x 2 workers_per_node"):
        plan(str(recipe), ("workers=4", "micro_batch_sequences=1"), profile, Reporter())
    told: list[str] = []
    plan(str(recipe), ("workers=1",), profile, Reporter(told.append))
    assert told == ["tiny: 1 workers; the nodes have places for 1 more"]


def test_data_that_only_a_ray_cluster_sees_is_left_to_the_job(recipe: Path) -> None:
    told: list[str] = []
    profile = load_profile("ray", None, ["address='http://head:8265'", "device=cpu"])
    text = plan(str(recipe), ("data.path=/not/here",), profile, Reporter(told.append)).describe()
    assert "ray job submit --address http://head:8265" in text
    assert told == ["the data set is not visible from here: the job itself will check it"]
    with pytest.raises(DataError):
        plan(str(recipe), ("data.path=/not/here",), load_profile("local", None), Reporter())


def test_lists_of_runs_are_arrays_of_runs_with_directories_of_their_own(recipe: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs.txt"
    runs.write_text(f"{recipe} name=a\n{recipe} name=b seed=2\n")
    profile = load_profile("slurm", "cpu", SLURM)
    text = plan_list(str(runs), ("learning_rate=1e-4",), profile, Reporter()).describe()
    assert "#SBATCH --array=0-1" in text
    assert "recipe-1.yaml" in text and "start-1.sh" in text
    assert text.count("learning_rate: 0.0001") == 2
    runs.write_text(f"{recipe} name=a\n{recipe} name=a\n")
    with pytest.raises(ConfigError, match="run 2: found the run directory"):
        plan_list(str(runs), (), profile, Reporter())
    with pytest.raises(ConfigError, match="--study: found --to local; job arrays of Slurm"):
        plan_list(str(runs), (), load_profile("local", None), Reporter())


class Desk(ClusterLauncher[Profile]):
    """Jobs on a desk: the state of one is what a file says."""

    def plan(self, job: Job, folder: Path, profile: Profile) -> None:  # type: ignore[override]
        raise NotImplementedError

    def check(self, profile: Profile) -> Iterator[Finding]:
        raise NotImplementedError

    def state(self, submission: Submission) -> str:
        try:
            return (Path(submission.folder) / "state").read_text()
        except OSError:
            raise ConfigError.at("desk", found="nothing", allowed="a state", remedy="Look.") from None

    def is_over(self, state: str) -> bool:
        return state == "done"

    def logs(self, submission: Submission) -> str:
        raise NotImplementedError

    def follow(self, submission: Submission, reporter: Reporter) -> bool:
        raise NotImplementedError

    def cancel(self, submission: Submission, *, at_once: bool) -> None:
        raise NotImplementedError


def test_a_run_has_one_job_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAUNCHERS, "desk", Entry(Desk(), Profile))
    told: list[str] = []
    run_dir = tmp_path / "run"
    folder = run_dir / "jobs" / "0001"
    refuse_second([run_dir], Reporter())
    folder.mkdir(parents=True)
    save_submission(folder, "desk", "12", {})
    refuse_second([run_dir], Reporter(told.append))
    assert told == ["job 12 cannot be asked after: desk: found nothing; a state. Look."]
    (folder / "state").write_text("queued")
    with pytest.raises(ConfigError, match="job 12 of desk, which is queued; one job of a run at a time"):
        refuse_second([run_dir], Reporter())
    (folder / "state").write_text("done")
    refuse_second([run_dir], Reporter())
    assert json.loads((folder / "submission.json").read_text())["target"] == "desk"
