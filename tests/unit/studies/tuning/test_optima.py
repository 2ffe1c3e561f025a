"""Tuning inside a study: which trials are planned, when their rates are settled, and what is written down."""

import dataclasses
import json
from pathlib import Path

import pytest
from study_cases import STUDY, write_study
from trial_cases import pretend

from sisa_scale.config.study import StudyConfig, load_study
from sisa_scale.errors import ConfigError, DataError
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.study.stages import expand_tuned, tuned_trials
from sisa_scale.scaling.table.checks import load_table
from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.studies.expansion import expand
from sisa_scale.studies.plan import cost_of
from sisa_scale.studies.results.collection import collect
from sisa_scale.studies.selection import select
from sisa_scale.studies.state import read_states
from sisa_scale.studies.trial import Trial
from sisa_scale.studies.tuning.optima import read_tuning

SWEEP = STUDY.replace("tokens: [2560, 5120]", "tokens: [5120]") + (
    "learning_rate: {{sweep: [1e-3, 2e-3, 4e-3, 8e-3], at: {{size: s, tokens: 2560}}, exponent: 0.5}}\n"
)
STATED = ("learning_rate.value=1e-3", "learning_rate.sweep=[]", "learning_rate.at=null")
LOSSES = {0.001: 2.9, 0.002: 2.7, 0.004: 2.72, 0.008: 2.96}


@pytest.fixture
def study(tmp_path: Path) -> StudyConfig:
    return load_study(write_study(tmp_path, Path("data/none"), SWEEP))


@pytest.fixture
def directory(study: StudyConfig) -> StudyDirectory:
    directory = StudyDirectory(study.directory)
    directory.record(study, expand(study))
    return directory


def other(study: StudyConfig, *overrides: str) -> StudyConfig:
    return load_study(study.directory.parent / "small.yaml", overrides)


def tune(directory: StudyDirectory, losses: dict[float, float | None], *architectures: str) -> None:
    """Pretend that tuning trials have ended; None: diverged."""
    for trial in directory.trials():
        values = trial.values
        if values["role"] == "tuning" and values["architecture"] in (architectures or ("sisa", "transformer")):
            loss = losses[values["learning_rate"]]
            if loss is None:
                pretend(directory, trial.name, outcome="diverged", steps=3)
            else:
                pretend(directory, trial.name, loss=loss)


def settle(study: StudyConfig, directory: StudyDirectory, told: list[str]) -> list[Trial] | None:
    return tuned_trials(study, directory, expand_tuned(study), Reporter(told.append))


def test_tuning_trials_come_first_and_the_others_wait_for_a_rate(study: StudyConfig) -> None:
    trials = expand(study)
    tuning, others = trials[:8], trials[8:]
    assert {trial.role for trial in tuning} == {"tuning"}
    assert {(t.size, t.config.total_steps, t.branch_step) for t in tuning} == {("s", 10, 0)}
    rates = [t.config.optimizer.learning_rate for t in tuning if t.architecture == "sisa"]
    assert rates == [0.001, 0.002, 0.004, 0.008]
    assert tuning[0].name == "tune-transformer-s-2.56K-lr0.001"
    assert all(trial.is_untuned for trial in others)
    plain = others[0].to_plain()
    assert (plain["learning_rate"], plain["config_sha256"]) == (None, None)
    assert not any("optimizer.learning_rate=" in override for override in plain["overrides"])
    assert cost_of(trials, study.cost).flops > cost_of(others, study.cost).flops


def test_tuned_rates_are_carried_to_other_widths_and_lengths(study: StudyConfig) -> None:
    def rates(*overrides: str) -> dict[str, float]:
        few = ("budgets.tokens=[2560,5120]", "learning_rate.sweep=[1e-3,2e-3,4e-3]")
        trials = expand(other(study, *few, *overrides), {"sisa": 4e-3, "transformer": 2e-3})
        return {t.name: t.config.optimizer.learning_rate for t in trials if t.role != "tuning"}

    found = rates()
    assert found["sisa-s-2.56K"] == found["sisa-s-5.12K"] == 4e-3
    assert found["sisa-m-2.56K"] == pytest.approx(4e-3 / 2**0.5, rel=1e-5)
    assert found["transformer-m-5.12K"] == pytest.approx(2e-3 / 2**0.5, rel=1e-5)
    longer = rates("learning_rate.tokens_exponent=0.3")
    assert longer["sisa-s-2.56K"] == longer["sisa-s-5.12K"] == pytest.approx(4e-3 / 2**0.3, rel=1e-5)  # one trunk
    alone = rates("learning_rate.tokens_exponent=0.3", "schedule.trunk=false")
    assert alone["sisa-s-2.56K"] == pytest.approx(4e-3)
    assert alone["sisa-s-5.12K"] == pytest.approx(4e-3 / 2**0.3, rel=1e-5)


def test_an_architecture_has_rates_and_seeds_of_its_own(study: StudyConfig) -> None:
    own = other(study, "architectures.sisa.learning_rate_sweep=[3e-3,1e-3,2e-3]", "learning_rate.seeds=2")
    tuning = [trial for trial in expand(own) if trial.role == "tuning"]
    assert [t.name for t in tuning if t.architecture == "sisa"][:2] == [
        "tune-sisa-s-2.56K-lr0.001-seed0",
        "tune-sisa-s-2.56K-lr0.001-seed1",
    ]
    assert len(tuning) == 2 * (3 + 4)


def test_rates_are_settled_when_all_have_ended_and_are_kept_with_their_evidence(
    study: StudyConfig, directory: StudyDirectory
) -> None:
    told: list[str] = []
    states = {s.trial.name: s.state for s in read_states(directory, directory.trials())}
    assert states["sisa-s-5.12K"] == "waiting"
    assert states["tune-sisa-s-2.56K-lr0.001"] == "ready"
    tune(directory, LOSSES, "sisa")
    assert settle(study, directory, told) is None
    tune(directory, {**LOSSES, 0.008: None}, "transformer")
    trials = settle(study, directory, told)
    assert trials is not None
    assert "learning rate of transformer: 0.00" in told[0]
    assert told[1] == "  diverged, and left out of the fit: 0.008"
    assert not any(trial.is_untuned for trial in trials)
    value = json.loads((directory.path / "tuning.json").read_text())
    evidence = {row["architecture"]: row for row in value["architectures"]}
    assert [row["loss"] for row in evidence["transformer"]["trials"]] == [2.9, 2.7, 2.72, None]
    rate = evidence["sisa"]["optimum"]["rate"]
    assert 2e-3 < rate < 4e-3
    planned = {row["name"]: row["learning_rate"] for row in directory.plan()["trials"]}
    assert planned["sisa-s-5.12K"] == pytest.approx(rate, rel=1e-3)
    # Later submits read the same rates, run no tuning trial again, and a sweep grows no more.
    again = expand_tuned(study)
    directory.check(study, again)
    chosen, left_out = select(again, read_states(directory, directory.trials()), ())
    assert (len(chosen), left_out) == (4, [])
    grown = other(study, "learning_rate.sweep=[1e-3,2e-3,4e-3,8e-3,1.6e-2]")
    with pytest.raises(ConfigError, match="a plan of 12 trials"):
        directory.check(grown, expand_tuned(grown))
    # In the table tuning trials are marked, so that no law is fitted to them.
    pretend(directory, "sisa-s-5.12K")
    collected = collect(directory)
    assert len(collected.rows) == 8  # the one that diverged has no loss
    assert load_table(collected.path).texts["run_id"].tolist() == ["sisa-s-5.12K"]
    # A damaged file is refused, and the remedy works.
    path, before = directory.path / "tuning.json", read_tuning(directory.path)
    path.write_text("{}")
    with pytest.raises(DataError, match="Delete the file"):
        expand_tuned(study)
    path.unlink()
    settle(study, directory, [])
    assert read_tuning(directory.path) == before


def test_the_remedy_for_an_optimum_at_the_edge_works(study: StudyConfig, directory: StudyDirectory) -> None:
    tune(directory, LOSSES, "transformer")
    tune(directory, {0.001: 2.5, 0.002: 2.6, 0.004: 2.8, 0.008: 3.2}, "sisa")
    with pytest.raises(ConfigError, match="learning rate of sisa: found the best loss at") as error:
        settle(study, directory, [])
    assert not (directory.path / "tuning.json").exists()
    override = str(error.value).split("'")[1]
    wider = other(study, override)
    trials = expand_tuned(wider)
    directory.check(wider, trials)
    directory.record(wider, trials)
    left = [t.name for t in select(trials, read_states(directory, directory.trials()), ())[0] if t.role == "tuning"]
    assert left == ["tune-sisa-s-2.56K-lr0.00025", "tune-sisa-s-2.56K-lr0.0005"]
    for name, loss in zip(left, (2.9, 2.6), strict=True):
        pretend(directory, name, loss=loss)
    assert settle(wider, directory, []) is not None


def test_a_trial_that_failed_otherwise_is_no_divergence(study: StudyConfig, directory: StudyDirectory) -> None:
    tune(directory, LOSSES, "transformer")
    pretend(directory, "tune-sisa-s-2.56K-lr0.008", outcome="failed", steps=3)
    for rate in ("0.001", "0.002", "0.004"):
        pretend(directory, f"tune-sisa-s-2.56K-lr{rate}")
    assert settle(study, directory, []) is None
    _, left_out = select(expand(study), read_states(directory, directory.trials()), ())
    assert [status.trial.name for status in left_out] == ["tune-sisa-s-2.56K-lr0.008"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("learning_rate.sweep=[1e-3,2e-3]",), "3 or more different rates"),
        (("learning_rate.value=1e-3",), "found both; the rate is stated by value or tuned by sweep"),
        (("learning_rate.at=null",), "a sweep says where it is made"),
        (("learning_rate.at.size=xl",), "must be one of the sizes"),
        (("architectures.sisa.learning_rate_scale=2.0",), "a swept rate is tuned, not scaled"),
        ((*STATED, "learning_rate.at_d_model=16", "learning_rate.tokens_exponent=0.3"), "at_tokens: found nothing"),
        (STATED, "at_d_model: found nothing"),
        (("learning_rate.sweep=[]",), "found neither"),
        (("learning_rate=null", "architectures.sisa.learning_rate_sweep=[1e-3,2e-3,3e-3]"), "learning_rate.sweep"),
        (("learning_rate.at.tokens=512",), "learning_rate.at, .*the cooldown begins after"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_sweep_is_said(study: StudyConfig, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(other(study, *overrides))


def test_a_number_of_seeds_is_a_list_from_0_on(study: StudyConfig) -> None:
    assert other(study, "seeds=3").seed_list == (0, 1, 2)
    assert dataclasses.replace(study, seeds=(4,)).seed_list == (4,)
    with pytest.raises(ConfigError, match="one or more different seeds"):
        other(study, "seeds=0")
