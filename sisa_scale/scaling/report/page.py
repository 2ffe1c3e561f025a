"""Write the report of a table: one HTML page, every figure as SVG and PDF with its CSV, the fit and its draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from sisa_scale.files import write_bytes, write_json, write_text
from sisa_scale.scaling.csv_text import csv_text
from sisa_scale.scaling.figures.allocation import allocation
from sisa_scale.scaling.figures.comparison import multiplier_over_loss
from sisa_scale.scaling.figures.losses import isoflop_curves, loss_over_compute, surface
from sisa_scale.scaling.figures.plot import Plot
from sisa_scale.scaling.figures.residuals import leave_largest_out, residuals
from sisa_scale.scaling.figures.uncertainty import design_map, exponent_cloud, forest, sensitivity_figure
from sisa_scale.scaling.fit.arrays import Floats
from sisa_scale.scaling.fit.bootstrap import LEVEL, NUM_RESAMPLES
from sisa_scale.scaling.report.contents import Study, examine_table
from sisa_scale.scaling.report.exports import loss_errors, run_rows, write_beside
from sisa_scale.scaling.report.results import fit_values, plain, refusal_values
from sisa_scale.scaling.report.wording import RUN_COLUMNS, facts, not_claimed, run_cell, shown, verdicts
from sisa_scale.scaling.table.notices import WARNINGS, Notice
from sisa_scale.scaling.table.table import RunTable

_MOST_RUNS = 400  # on the page; runs.csv has all


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page that its caller wrote: paragraphs, and a table of rows with equal keys."""

    title: str
    paragraphs: Sequence[str]
    rows: Sequence[Mapping[str, Any]] = ()


_DRAW = (
    loss_over_compute,
    multiplier_over_loss,
    isoflop_curves,
    allocation,
    surface,
    forest,
    exponent_cloud,
    residuals,
    leave_largest_out,
    sensitivity_figure,
    design_map,
)


def write_report(
    out: Path,
    table: RunTable,
    objective: str = "huber:1e-3",
    *,
    reference: str | None = None,
    losses: Floats | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    more_plots: Sequence[Plot] = (),
    sections: Sequence[Section] = (),
    title: str | None = None,
) -> tuple[dict[str, Any], tuple[Notice, ...]]:
    """Write report.html, figures/NAME.svg, .pdf and .csv, runs.csv, and fit.json with what lies beside it, into `out`.

    The same table gives the same bytes.
    A table whose law is refused gets a page too: its points, and the reason in words. more_plots: shown after the
    others. sections: the end of the page. title: the name of the file unless given. Returns what fit.json holds, and
    the warnings.
    """
    study = examine_table(
        table,
        objective,
        reference=reference,
        losses=losses,
        num_resamples=num_resamples,
        seed=seed,
        level=level,
    )
    plots = [*(plot for draw in _DRAW if (plot := draw(study)) is not None), *more_plots]
    for plot in plots:
        write_text(out / "figures" / f"{plot.name}.svg", plot.standalone_svg)
        write_bytes(out / "figures" / f"{plot.name}.pdf", plot.pdf)
        write_text(out / "figures" / f"{plot.name}.csv", plot.csv)
    value = _values(study)
    write_json(out / "fit.json", plain(value))
    write_text(out / "runs.csv", csv_text(run_rows(table, study.fit)))
    if study.fit is not None:
        write_beside(out / "fit.json", study.fit, study.draws)
    write_text(out / "report.html", render(study, plots, title or Path(table.path).name, sections))
    return value, study.notices


def render(study: Study, plots: list[Plot], title: str, sections: Sequence[Section] = ()) -> str:
    """Return the page; figures are inside, and nothing is loaded."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sisa_scale.scaling.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        study=study,
        title=title,
        facts=facts(study),
        verdicts=verdicts(study),
        not_claimed=not_claimed(study),
        meanings=WARNINGS,
        plots=[{"plot": plot, "svg": Markup(plot.svg)} for plot in plots],
        num_clusters=len(np.unique(study.table.cluster_N)),
        shown=shown,
        runs=run_rows(study.table, study.fit)[:_MOST_RUNS],
        run_columns=RUN_COLUMNS,
        cell=run_cell,
        error_source=loss_errors(study.table, study.fit)[1],
        sections=sections,
    )


def _values(study: Study) -> dict[str, Any]:
    if study.fit is None or study.identifiability is None:
        assert study.refused is not None
        return refusal_values(study.refused, study.notices)
    value = fit_values(study.fit, study.identifiability, study.draws, study.notices, study.level)
    if study.comparison is not None:
        value["comparison"] = {
            "reference": study.comparison.reference,
            "efficiency": {row.architecture: row for row in study.comparison.efficiencies},
            "multipliers": study.comparison.multipliers,
            "nested": study.comparison.nested,
        }
    value["verdicts"] = verdicts(study)
    value["not_claimed"] = not_claimed(study)
    return value
