"""`sisa-scale study report STUDY_DIR`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sisa_scale.cli.laws.options import AS_JSON, OBJECTIVE, emit_json, refusals_as_json, sampling, warn

if TYPE_CHECKING:
    from sisa_scale.studies.results.cost import CostKind


@click.command("report")
@click.argument("study_dir", type=click.Path(path_type=Path, file_okay=False))
@OBJECTIVE
@click.option(
    "--over",
    type=click.Choice(["tokens", "steps", "flops", "seconds"]),
    default="tokens",
    show_default=True,
    help="Cost over which curves of trials are drawn; seconds are wall time x workers on the device that is named.",
)
@AS_JSON
@sampling
@refusals_as_json
def command(
    study_dir: Path, objective: str, over: "CostKind", as_json: bool, resamples: int, seed: int, level: float
) -> None:
    """Collect the study in STUDY_DIR, fit and compare as `laws report` does, and draw it into STUDY_DIR/report."""
    from sisa_scale.cli.common.console import announce
    from sisa_scale.studies.directory import StudyDirectory
    from sisa_scale.studies.results.report import write_study_report

    report = write_study_report(
        StudyDirectory(study_dir), objective=objective, num_resamples=resamples, seed=seed, level=level, over=over
    )
    if as_json:
        emit_json({**report.values, "study": {**asdict(report.verdict), "sections": None}})
        return
    for status in report.collected.missing:
        announce(f"not in the report: {status.trial.name} ({status.state})")
    warn(report.notices)
    for problem in report.values["diagnostics"].get("refused", ()):
        click.echo(f"no law [{problem['code']}]: found {problem['found']}; {problem['allowed']}. {problem['remedy']}")
    for sentence in report.values.get("verdicts", ()):
        click.echo(sentence)
    for sentence in report.verdict.sentences:
        click.echo(sentence)
    for doubt in report.verdict.doubts:
        click.echo(f"would change it: {doubt}")
    click.echo(f"wrote {report.page}")
