"""Write the report of one or several runs as one self-contained HTML file."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from sisa_scale.errors import DataError
from sisa_scale.files import write_text
from sisa_scale.reporting.comparison import comparison_figures
from sisa_scale.reporting.curves import curves
from sisa_scale.reporting.figures import run_figures
from sisa_scale.reporting.refused_steps import refused_sentence, refused_series
from sisa_scale.reporting.summary import changes, flatten, headline_facts, score_text
from sisa_scale.runs.files import Run, read_run


def write_report(run_dirs: Sequence[Path], out: Path) -> Path:
    """Read the run directories, write the report to `out` atomically, and return `out`.

    The file needs no server and loads nothing: styles and figures are inside. With several runs their comparison
    comes first. Raises DataError when there is no run or a run's files are malformed.
    """
    if not run_dirs:
        remedy = "Name one run directory or more."
        raise DataError.at("report", found="no run", allowed="a report is about one run or more", remedy=remedy)
    write_text(out, render_report([read_run(path) for path in run_dirs]))
    return out


def render_report(runs: Sequence[Run], *, refresh_seconds: float = 0.0) -> str:
    """Return the HTML page; every value from a run is escaped, only our own figures and script are markup.

    refresh_seconds: of a page that is served; it has curves that can be zoomed, and asks for news as often.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sisa_scale.reporting", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages = [_page(run, f"run-{number}") for number, run in enumerate(runs, 1)]
    # matplotlib escapes all text it writes into an SVG.
    comparison = [Markup(svg) for svg in comparison_figures(runs)]
    title = " · ".join(run.name for run in runs[:3]) + (" …" if len(runs) > 3 else "")
    script = Markup(resources.files("sisa_scale.reporting").joinpath("curves.js").read_text("utf-8"))
    zoomed = {"data": curves(runs), "script": script, "seconds": refresh_seconds} if refresh_seconds else None
    return environment.get_template("report.html.j2").render(
        title=title, pages=pages, comparison=comparison, zoomed=zoomed
    )


def _page(run: Run, anchor: str) -> dict[str, Any]:
    refused = refused_series(run)
    return {
        "anchor": anchor,
        "run": run,
        "facts": headline_facts(run),
        "refused": refused,
        "refused_sentence": refused_sentence(refused, run.events),
        "figures": [Markup(svg) for svg in run_figures(run)],
        "evaluations": _evaluations(run),
        "later": _later(run),
        "provenance": list(flatten(run.provenance)),
        "changes": changes(run),
    }


def _evaluations(run: Run) -> list[dict[str, Any]]:
    """Return one table an evaluation, the latest first."""
    tables: dict[int, dict[str, Any]] = {}
    for row in reversed(run.scores):
        table = tables.setdefault(row.step, {"step": row.step, "tokens": row.tokens, "rows": []})
        table["rows"].insert(0, {"score": row, "text": score_text(row)})
    return list(tables.values())


def _later(run: Run) -> list[dict[str, Any]]:
    """Return one table for each time that checkpoints were scored outside the run, the latest first."""
    return [
        {
            "step": later.step,
            "tokens": later.scores[0].tokens,
            "rows": [{"score": row, "text": score_text(row)} for row in later.scores],
            "settings": ", ".join(later.settings) or "nothing",
            "time": later.time,
        }
        for later in reversed(run.later)
    ]
