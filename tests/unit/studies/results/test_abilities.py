"""What trials can do, as columns and figures; costs in tokens, FLOPs and seconds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from run_lines import step_row
from study_cases import write_study

from sisa_scale.config.loading.load import load_config
from sisa_scale.config.study import load_study
from sisa_scale.errors import DataError
from sisa_scale.runs.directory import RunDirectory
from sisa_scale.runs.files import read_run
from sisa_scale.runs.logs.evaluations import ScoreRow
from sisa_scale.scaling.figures.plot import Plot
from sisa_scale.scaling.table.table import read_table
from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.studies.expansion import expand
from sisa_scale.studies.results.abilities import THRESHOLDS, ability_columns, column_of, first_reached
from sisa_scale.studies.results.ability_figures import TrialRun, ability_plots
from sisa_scale.studies.results.collection import collect
from sisa_scale.studies.results.cost import COST_KINDS, CostAxis, cost_axis, device_of
from sisa_scale.studies.results.curves import loss_curves
from sisa_scale.training.record import record

Evaluate = Callable[[int], list[ScoreRow]]


def accuracy(step: int, value: float | None, metric: str = "exact_match") -> ScoreRow:
    error = None if value is None else 2.5
    return ScoreRow(step, step * 256, "needle", "needle-random", metric, "%", 40, value, error)


def learns_at(half: int, whole: int) -> Evaluate:
    """Return what a trial scores every four steps: 10 %, 60 % from one step on, and 100 % from another."""

    def evaluate(step: int) -> list[ScoreRow]:
        value = 100.0 if step >= whole else 60.0 if step >= half else 10.0
        place = {"step": step, "tokens": step * 256, "num_items": 40}
        by_position = [
            ScoreRow(**place, task="position-loss", variant="position-loss", metric=f"upto_{edge}", unit="nats/token",
                     value=5 - edge / 32, standard_error=0.05)
            for edge in (8, 16, 32)
        ]  # fmt: skip
        loss = ScoreRow(
            **place, task="loss", variant="heldout", metric="loss", unit="nats/token", value=3.0, standard_error=0.1
        )
        return [loss, accuracy(step, value), accuracy(step, value / 2, "exact_match_32"), *by_position]

    return evaluate


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> StudyDirectory:
    root = tmp_path_factory.mktemp("study")
    study = load_study(write_study(root, Path("data/none")))
    directory = StudyDirectory(study.directory)
    directory.record(study, expand(study))
    return directory


@pytest.fixture(scope="module")
def trials(directory: StudyDirectory) -> list[TrialRun]:
    """Two trunks, and a branch of the first; the second never learns it wholly."""
    return [
        begin(directory, "sisa-s-5.12K", learns_at(8, 16)),
        begin(directory, "transformer-s-5.12K", learns_at(12, 99)),
        begin(directory, "sisa-s-2.56K", learns_at(8, 10)),  # a branch from step 8
    ]


def begin(directory: StudyDirectory, name: str, evaluate: Evaluate, gpu: str = "NVIDIA A") -> TrialRun:
    """Write the run directory of a trial of steps of half a second on two workers."""
    planned = next(trial for trial in directory.trials() if trial.name == name)
    two = ("resources.workers=2", "execution.micro_batch_sequences=4")
    config = load_config(planned.values["recipe"], (*planned.values["overrides"], *two)).config
    run = RunDirectory(planned.directory)
    run.path.mkdir(parents=True)
    record(run, config, "f" * 64)
    run.begin_attempt(config, ["a:1", "a:2"], ["a", "a"])
    for step in range(1, planned.total_steps + 1):
        run.add_step(step_row(step))
        if step % 4 == 0 or step == planned.total_steps:
            run.add_scores(evaluate(step))
    run.end_attempt("finished")
    for path in run.path.rglob("provenance.json"):
        provenance = json.loads(path.read_text())
        provenance["hardware"]["gpus"] = [gpu, gpu]
        path.write_text(json.dumps(provenance))
    return TrialRun(planned, read_run(planned.directory))


def test_all_scores_of_the_last_step_are_columns_and_so_is_when_they_were_reached(trials: list[TrialRun]) -> None:
    columns, never = (ability_columns(one.trial, one.run) for one in trials[:2])
    assert columns["needle_random_exact_match"] == 100.0
    assert columns["needle_random_exact_match_se"] == 2.5
    assert columns["needle_random_exact_match_32"] == 50.0
    assert (columns["position_loss_upto_8"], columns["position_loss_upto_32"]) == (4.75, 4.0)
    assert columns["needle_random_exact_match_first_step_50"] == 8
    assert columns["needle_random_exact_match_first_step_99"] == 16
    assert not any(name.startswith("heldout") for name in columns)
    assert not any(name.startswith("needle_random_exact_match_32_first") for name in columns)
    assert never["needle_random_exact_match_first_step_99"] == ""


def test_the_table_names_the_device_and_is_still_read(directory: StudyDirectory, trials: list[TrialRun]) -> None:
    collected = collect(directory)
    table = read_table(collected.path)
    assert set(table.texts["device"]) == {"NVIDIA A"}
    assert set(table.texts["needle_random_exact_match"]) == {"100", "60"}
    assert table.seconds is not None and set(table.seconds) == {10.0, 20.0}
    assert table.notices == ()


def test_a_threshold_is_reached_between_two_evaluations() -> None:
    rows = [accuracy(4, 10.0), accuracy(8, 50.0), accuracy(12, 30.0)]
    half, whole = first_reached(rows)
    assert (half.threshold, half.step, half.after) == (THRESHOLDS[0], 8, 4)
    assert (whole.threshold, whole.step, whole.after) == (THRESHOLDS[1], None, 12)
    assert [reached.after for reached in first_reached([])] == [0, 0]
    assert column_of(rows[0]) == "needle_random_exact_match"


def test_costs_of_a_step(trials: list[TrialRun]) -> None:
    one, steps = trials[0], [0, 10, 20]
    cost = {kind: CostAxis(kind).of(one.trial, one.run, steps).tolist() for kind in COST_KINDS}
    assert cost["tokens"] == [0, 2560, 5120]
    assert cost["steps"] == steps
    assert cost["seconds"] == [0, 10, 20]  # ten steps of half a second on two workers
    assert cost["flops"] == pytest.approx([0, one.trial.values["train_flops"] / 2, one.trial.values["train_flops"]])
    assert cost_axis("seconds", [one.run]).label == "seconds x workers on NVIDIA A"


def test_seconds_on_different_devices_are_refused(directory: StudyDirectory, trials: list[TrialRun]) -> None:
    other = begin(directory, "transformer-m-5.12K", learns_at(8, 16), "NVIDIA B")
    runs = [trials[0].run, other.run]
    shutil.rmtree(other.run.path)
    assert [device_of(run) for run in runs] == ["NVIDIA A", "NVIDIA B"]
    assert cost_axis("tokens", runs).label == "training tokens"
    with pytest.raises(DataError, match=r"NVIDIA A; NVIDIA B.*--over tokens"):
        cost_axis("seconds", runs)


def test_figures_show_when_each_architecture_learned_it(directory: StudyDirectory, trials: list[TrialRun]) -> None:
    axis = cost_axis("seconds", [one.run for one in trials])
    plots = {plot.name: plot for plot in ability_plots(trials, axis)}
    assert set(plots) == {"accuracy_needle_random_exact_match", "when_learned", "loss_by_position"}
    learned = rows_of(plots["when_learned"])
    assert [
        (row["trial"], row["threshold"], row["after_step"], row["step"], row["after_seconds"], row["seconds"])
        for row in learned
    ] == [
        ("sisa-s-5.12K", "50", "4", "8", "4", "8"),
        ("sisa-s-5.12K", "99", "12", "16", "12", "16"),
        ("transformer-s-5.12K", "50", "8", "12", "8", "12"),
        ("transformer-s-5.12K", "99", "20", "", "20", ""),
    ]
    branch = [row for row in rows_of(plots["accuracy_needle_random_exact_match"]) if row["trial"] == "sisa-s-2.56K"]
    assert branch and all(int(row["step"]) > trials[2].branch_step for row in branch)
    curves = loss_curves(directory, axis)
    assert curves is not None and "seconds" in rows_of(curves)[0]
    assert ability_plots([], axis) == []


def rows_of(plot: Plot) -> list[dict[str, str]]:
    header, *lines = [line.split(",") for line in plot.csv.splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]
