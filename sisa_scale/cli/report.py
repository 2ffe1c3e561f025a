"""`sisa-scale report RUN_DIR [RUN_DIR ...]`."""

from pathlib import Path

import click

from sisa_scale.cli.console import announce
from sisa_scale.reporting.html import write_report
from sisa_scale.runs.layout import REPORT


@click.command("report")
@click.argument("run_dirs", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Where to write the page.")
def command(run_dirs: tuple[Path, ...], out: Path | None) -> None:
    """Draw one run as an HTML page, or several beside each other."""
    if out is None:
        out = run_dirs[0] / REPORT if len(run_dirs) == 1 else Path("comparison.html")
    announce(f"wrote {write_report(run_dirs, out)}")
