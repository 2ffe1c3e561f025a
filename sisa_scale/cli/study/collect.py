"""`sisa-scale study collect STUDY_DIR`."""

from pathlib import Path

import click


@click.command("collect")
@click.argument("study_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def command(study_dir: Path, as_json: bool) -> None:
    """Write STUDY_DIR/runs.csv: one row for each finished run, with the columns that `sisa-scale laws` reads."""
    from sisa_scale.cli.common.console import announce, render
    from sisa_scale.studies.directory import StudyDirectory
    from sisa_scale.studies.results.collection import collect

    collected = collect(StudyDirectory(study_dir))
    if as_json:
        missing = {status.trial.name: status.state for status in collected.missing}
        value = {"table": str(collected.path), "rows": list(collected.rows), "missing": missing}
        render([], as_json=True, value=value)
        return
    announce(f"wrote {collected.path}: {len(collected.rows)} runs")
    for status in collected.missing:
        announce(f"without a row: {status.trial.name} ({status.state})")
