"""A study of planted losses from its first forecast to the verdict of its report."""

import json
from pathlib import Path

import pytest
from study_cases import STUDY, write_study
from trial_cases import pretend

from sisa_scale.config.study import load_study
from sisa_scale.launching.reporter import Reporter
from sisa_scale.launching.study.stages import expand_tuned, tuned_trials
from sisa_scale.scaling.table.notices import RefusalError
from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.studies.results.forecasting import FORECAST, largest_of, register_forecast
from sisa_scale.studies.results.report import write_study_report

TEXT = STUDY + (
    "seeds: 2\nlearning_rate: {{sweep: [1e-3, 2e-3, 4e-3, 8e-3], at: {{size: s, tokens: 2560}}, exponent: 0.5}}\n"
)
CURVE = {0.001: 0.21, 0.002: 0.03, 0.004: 0.05, 0.008: 0.26}
SEED_LOSS = (0.0, 0.03)


def planted(values: dict[str, object], effect: float) -> float:
    """Return the loss of a trial: a power law, an effect of the architecture that all sizes share, and a seed's own."""
    loss = 8 * float(str(values["params_scaling"])) ** -0.05 * float(str(values["tokens"])) ** -0.05
    loss += effect if values["architecture"] == "sisa" else 0.0
    if values["role"] == "tuning":
        return loss + CURVE[float(str(values["learning_rate"]))]
    wobble = 0.001 * (len(str(values["name"])) % 3)
    return loss + SEED_LOSS[int(str(values["seed"]))] + wobble


def test_from_the_forecast_to_the_verdict(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, Path("data/none"), TEXT), ["schedule.trunk=false"])
    directory, told = StudyDirectory(study.directory), list[str]()
    directory.record(study, expand_tuned(study))
    for trial in directory.trials():
        if trial.values["role"] == "tuning":
            pretend(directory, trial.name, loss=planted(trial.values, -0.1))
    trials = tuned_trials(study, directory, expand_tuned(study), Reporter(told.append))
    assert trials is not None
    largest = largest_of(trials)
    assert largest == {f"{name}-m-seed{seed}-5.12K" for name in ("sisa", "transformer") for seed in (0, 1)}
    assert "none of which has finished but tuning trials" in register_forecast(directory)
    for trial in directory.trials():
        if trial.values["role"] != "tuning" and trial.name not in largest:
            pretend(directory, trial.name, loss=planted(trial.values, -0.1))
    said = register_forecast(directory)
    assert said.startswith("forecast of the largest trials, registered in")
    before = (directory.path / FORECAST).read_bytes()
    for trial in directory.trials():
        if trial.name in largest:
            pretend(directory, trial.name, loss=planted(trial.values, -0.1))
    assert "stays as it is" in register_forecast(directory)
    assert (directory.path / FORECAST).read_bytes() == before

    report = write_study_report(directory, num_resamples=100)
    verdict, page = report.verdict, report.page.read_text()
    assert verdict.sentences[0].startswith("sisa has a lower loss than transformer on average over 4 sizes and lengths")
    (one,) = verdict.pairs.overall if verdict.pairs else ()
    assert one.mean == pytest.approx(-0.1, abs=0.005)
    equal = {row["architecture"]: row for row in verdict.equal}
    assert (equal["sisa"]["tokens"], equal["sisa"]["tuning trials"]) == ("+0.00%", 4)
    assert equal["sisa"]["rates tried"] == "4, 0.001 to 0.008"
    assert [row["inside"] for row in verdict.forecast] == ["yes"] * 4
    assert page.index("Figures") < page.index("Verdict of the study") < page.index("What would change it")
    assert (report.page.parent / "figures" / "learning_rates.svg").exists()
    assert any("second size" in doubt for doubt in verdict.doubts)
    assert json.loads((report.page.parent / "verdict.json").read_text())["sentences"] == list(verdict.sentences)

    altered = json.loads(before)
    altered["predictions"][0]["loss"] += 0.1
    (directory.path / FORECAST).write_text(json.dumps(altered))
    with pytest.raises(RefusalError, match="SHA-256"):
        write_study_report(directory, num_resamples=100)


def test_a_forecast_is_not_made_once_a_largest_trial_has_begun(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, Path("data/none")), ["budgets.tokens=[5120]"])
    directory = StudyDirectory(study.directory)
    directory.record(study, expand_tuned(study))
    pretend(directory, "transformer-m-5.12K", outcome=None, steps=3)
    assert "has begun" in register_forecast(directory)
    assert not (directory.path / FORECAST).exists()
