"""The report of a study: its table, the fits and comparisons of `laws report`, and the loss curves of its trials."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sisa_scale.files import write_json
from sisa_scale.scaling.fit.bootstrap import LEVEL, NUM_RESAMPLES
from sisa_scale.scaling.report import page as laws_report
from sisa_scale.scaling.report.results import plain
from sisa_scale.scaling.table.checks import load_table
from sisa_scale.scaling.table.notices import Notice
from sisa_scale.studies.collection import Collected, collect
from sisa_scale.studies.curves import loss_curves
from sisa_scale.studies.directory import StudyDirectory
from sisa_scale.studies.rate_figure import rate_curves
from sisa_scale.studies.verdict import Verdict, judge_study


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
) -> StudyReport:
    """Collect the study and write report/report.html, its figures, fit.json and verdict.json into its directory.

    The architectures are compared with the study's reference. Errors as `collect`, and RefusalError for a table that
    does not mean what its columns say.
    """
    collected = collect(directory)
    table = load_table(collected.path)
    plan = directory.plan()
    reference = plan["reference"]
    verdict = judge_study(directory, collected, table, level)
    plots = [plot for plot in (loss_curves(directory), rate_curves(verdict.tuned)) if plot is not None]
    values, notices = laws_report.write_report(
        directory.path / "report",
        table,
        objective,
        reference=reference if reference in table.architectures else None,
        num_resamples=num_resamples,
        seed=seed,
        level=level,
        more_plots=plots,
        sections=verdict.sections,
        title=plan["study"],
    )
    write_json(directory.path / "report" / "verdict.json", plain({**asdict(verdict), "sections": None}))
    return StudyReport(collected, directory.path / "report" / "report.html", values, verdict, notices)
