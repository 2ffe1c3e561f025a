"""`sisa-scale report RUN_DIR [RUN_DIR ...]`."""

from pathlib import Path

import click

from sisa_scale.cli.common.console import announce


@click.command("report")
@click.argument("run_dirs", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Where to write the page.")
@click.option("--serve", "is_served", is_flag=True, help="Serve it to this machine's browser, refreshed, until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), default=8321, show_default=True, help="Port of --serve.")
def command(run_dirs: tuple[Path, ...], out: Path | None, *, is_served: bool, port: int) -> None:
    """Draw one run as an HTML page, or several beside each other.

    With --serve the page follows runs that live, and its curves can be zoomed: wheel (shift for the y axis), drag,
    double click for the whole.
    """
    from sisa_scale.reporting.html import write_report
    from sisa_scale.runs.layout import REPORT

    if not is_served:
        if out is None:
            out = run_dirs[0] / REPORT if len(run_dirs) == 1 else Path("comparison.html")
        announce(f"wrote {write_report(run_dirs, out)}")
        return
    from sisa_scale.reporting.serve import ReportServer
    from sisa_scale.runs.files import read_run

    if out is not None:
        raise click.UsageError("--serve writes no file: leave --out out")
    for run_dir in run_dirs:
        read_run(run_dir)  # what cannot be read is said here, not in the browser
    with ReportServer(run_dirs, port) as server:
        announce(f"the report is at {server.url} until Ctrl-C")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            announce("ended")
