"""The report of a study: its table, the fits and comparisons of `laws report`, and the loss curves of its trials."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sisa_scale.files import write_json
from sisa_scale.runs.files import read_run
from sisa_scale.runs.layout import holds_run
from sisa_scale.scaling.fit.bootstrap import LEVEL, NUM_RESAMPLES
from sisa_scale.scaling.report import page as laws_report
from sisa_scale.scaling.report.results import plain
from sisa_scale.scaling.table.checks import load_table
from sisa_scale.scaling.table.notices import Notice
from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.studies.results.ability_figures import TrialRun, ability_plots
from sisa_scale.studies.results.collection import Collected, collect
from sisa_scale.studies.results.cost import CostKind, cost_axis
from sisa_scale.studies.results.curves import loss_curves
from sisa_scale.studies.results.verdict import Verdict, judge_study
from sisa_scale.studies.tuning.rate_figure import rate_curves


@dataclass(frozen=True, slots=True)
class StudyReport:
    """What was written. values: those of fit.json; verdict: those of verdict.json."""

    collected: Collected
    page: Path
    values: dict[str, Any]
    verdict: Verdict
    notices: tuple[Notice, ...]


def write_study_report(
    directory: StudyDirectory,
    *,
    objective: str = "huber:1e-3",
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    over: CostKind = "tokens",
) -> StudyReport:
    """Collect the study and write report/report.html, its figures, fit.json and verdict.json into its directory.

    The architectures are compared with the study's reference. over: the cost over which curves of trials are drawn;
    seconds on different devices are refused. Errors as `collect`, and RefusalError for a table that
    does not mean what its columns say.
    """
    collected = collect(directory)
    table = load_table(collected.path)
    plan = directory.plan()
    reference = plan["reference"]
    compared = [t for t in directory.trials() if holds_run(t.directory) and t.values["role"] != "tuning"]
    begun = [TrialRun(trial, read_run(trial.directory)) for trial in compared]
    axis = cost_axis(over, [one.run for one in begun])
    verdict = judge_study(directory, collected, table, level)
    curves = [plot for plot in (loss_curves(directory, axis), rate_curves(verdict.tuned)) if plot is not None]
    values, notices = laws_report.write_report(
        directory.path / "report",
        table,
        objective,
        reference=reference if reference in table.architectures else None,
        num_resamples=num_resamples,
        seed=seed,
        level=level,
        more_plots=[*curves, *ability_plots(begun, axis)],
        sections=verdict.sections,
        title=plan["study"],
    )
    write_json(directory.path / "report" / "verdict.json", plain({**asdict(verdict), "sections": None}))
    return StudyReport(collected, directory.path / "report" / "report.html", values, verdict, notices)
