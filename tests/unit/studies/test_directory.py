import json
from pathlib import Path

import pytest
from study_cases import write_study
from trial_cases import pretend

from sisa_scale.config.study import StudyConfig, load_study
from sisa_scale.errors import ConfigError, DataError
from sisa_scale.scaling.table.csv_source import read_source
from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.studies.expansion import expand
from sisa_scale.studies.results.collection import collect
from sisa_scale.studies.results.curves import loss_curves
from sisa_scale.studies.results.report import write_study_report
from sisa_scale.studies.selection import check_names, select
from sisa_scale.studies.state import read_states
from sisa_scale.studies.trial import Trial


@pytest.fixture
def study(tmp_path: Path) -> StudyConfig:
    return load_study(write_study(tmp_path, Path("data/none")))


@pytest.fixture
def trials(study: StudyConfig) -> list[Trial]:
    return expand(study)


@pytest.fixture
def directory(study: StudyConfig, trials: list[Trial]) -> StudyDirectory:
    directory = StudyDirectory(study.directory)
    directory.record(study, trials)
    return directory


def states(directory: StudyDirectory) -> dict[str, str]:
    return {status.trial.name: status.state for status in read_states(directory, directory.trials())}


def test_resolved_study_expands_to_the_same_trials(study: StudyConfig, directory: StudyDirectory) -> None:
    again = load_study(directory.path / "study.yaml")
    assert again == study
    directory.check(again, expand(again))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("seeds=[1]",), "sisa-s-2.56K with seed 0.*now seed 1"),
        (("budgets.tokens=[2560,7680]",), "a plan of 8 trials"),
        (("name=other",), "the study small.*this is other"),
        (('architectures.sisa.overrides=[model.kind=sisa, "model.sisa={d_s: 16}", optimizer.weight_decay=0.3]',),
         "sisa-s-5.12K with config_sha256"),
    ],
)  # fmt: skip
def test_directory_of_another_study_is_refused(
    tmp_path: Path, directory: StudyDirectory, overrides: tuple[str, ...], message: str
) -> None:
    other = load_study(tmp_path / "small.yaml", overrides)
    with pytest.raises(ConfigError, match=message):
        directory.check(other, expand(other))


def test_a_directory_without_a_plan_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"plan\.json"):
        StudyDirectory(tmp_path).trials()
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(DataError, match="another file"):
        StudyDirectory(tmp_path).trials()


def test_a_plan_of_version_0_1_is_read(directory: StudyDirectory) -> None:
    names = [trial.name for trial in directory.trials()]
    directory.plan_path.write_text(directory.plan_path.read_text().replace('"trials"', '"pieces"'))
    assert [trial.name for trial in directory.trials()] == names


def test_one_local_submit_at_a_time(directory: StudyDirectory) -> None:
    assert not directory.is_locked
    with directory.lock():
        assert directory.is_locked
        with pytest.raises(ConfigError, match="one at a time"), StudyDirectory(directory.path).lock():
            pass
    assert not directory.is_locked


def test_states_come_from_the_run_directories(directory: StudyDirectory) -> None:
    assert set(states(directory).values()) == {"ready", "waiting"}
    assert states(directory)["sisa-s-2.56K"] == "waiting"
    pretend(directory, "transformer-s-5.12K")
    pretend(directory, "sisa-s-5.12K", outcome="failed", steps=3)
    pretend(directory, "transformer-m-5.12K", outcome=None, steps=3)
    pretend(directory, "sisa-m-5.12K", outcome="interrupted", steps=3)
    found = states(directory)
    assert found["transformer-s-5.12K"] == "finished"
    assert found["sisa-s-5.12K"] == "failed"
    assert found["transformer-m-5.12K"] == found["sisa-m-5.12K"] == "stopped"


def test_failed_trials_are_left_alone_until_asked_for(trials: list[Trial], directory: StudyDirectory) -> None:
    pretend(directory, "transformer-s-5.12K")
    pretend(directory, "sisa-s-5.12K", outcome="failed", steps=3)
    found = read_states(directory, directory.trials())
    chosen, left_out = select(trials, found, ())
    assert len(chosen) == 6
    assert [status.trial.name for status in left_out] == ["sisa-s-5.12K"]
    assert left_out[0].reason == "rank 0: DataError: a damaged shard"
    chosen, left_out = select(trials, found, ("sisa-s-5.12K", "transformer-s-5.12K"))
    assert [trial.name for trial in chosen] == ["sisa-s-5.12K"]  # what has finished is never run again
    with pytest.raises(ConfigError, match=r"Did you mean 'sisa-s-5\.12K'"):
        check_names(["sisa-s-5.1K"], [trial.name for trial in trials])


def test_table_has_what_laws_read(directory: StudyDirectory) -> None:
    with pytest.raises(DataError, match="none of which has finished"):
        collect(directory)
    pretend(directory, "transformer-s-5.12K", loss=2.5)
    pretend(directory, "sisa-s-5.12K", outcome="failed", steps=3)
    collected = collect(directory)
    assert len(collected.rows) == 1
    assert {status.trial.name: status.state for status in collected.missing}["sisa-s-5.12K"] == "failed"
    columns = read_source(collected.path).columns
    row = {name: cells[0] for name, cells in columns.items()}
    plan = next(p.values for p in directory.trials() if p.name == "transformer-s-5.12K")
    assert float(row["loss"]) == 2.5
    assert float(row["seconds"]) == 10.0  # 20 steps of half a second on one worker
    assert (int(row["params_scaling"]), int(row["tokens"])) == (plan["params_scaling"], 5120)
    assert float(row["train_flops"]) == pytest.approx(plan["train_flops"], rel=1e-9)
    assert (row["trunk_id"], row["is_decayed"], row["loss_kind"]) == ("transformer-s-5.12K", "true", "heldout")


def test_trials_on_other_data_are_refused(directory: StudyDirectory) -> None:
    pretend(directory, "transformer-s-5.12K")
    pretend(directory, "sisa-s-5.12K", fingerprint="e" * 64)
    with pytest.raises(DataError, match=r"eeeeeeeeeeeeeeee in sisa-s-5\.12K"):
        collect(directory)


def test_report_of_too_few_runs_says_so_and_shows_the_curves(directory: StudyDirectory) -> None:
    pretend(directory, "transformer-s-5.12K", loss=2.5)
    pretend(directory, "sisa-s-5.12K", loss=2.4)
    report = write_study_report(directory, num_resamples=100)
    assert report.values["diagnostics"]["refused"][0]["code"] == "too-few-runs"
    page = report.page.read_text()
    assert "loss_curves" in page
    assert (report.page.parent / "figures" / "loss_curves.svg").read_text().count("<svg") == 1


def test_curves_of_a_branch_begin_where_it_leaves_the_trunk(directory: StudyDirectory) -> None:
    assert loss_curves(directory) is None
    pretend(directory, "sisa-s-5.12K")
    pretend(directory, "sisa-s-2.56K")
    plot = loss_curves(directory)
    assert plot is not None
    rows = [line.split(",") for line in plot.csv.splitlines()[1:]]
    first = {name: min(int(tokens) for trial, tokens, _ in rows if trial == name) for name, _, _ in rows}
    assert set(first) == {"sisa-s-5.12K", "sisa-s-2.56K"}
    assert min(first.values()) > 256  # the first steps of a run would hide the rest


def test_plan_json_is_complete(directory: StudyDirectory) -> None:
    plan = json.loads(directory.plan_path.read_text())
    assert len(plan["trials"]) == 8
    row = plan["trials"][0]
    assert {"recipe", "overrides", "run_dir", "branch_step", "own_flops", "config_sha256"} <= row.keys()
