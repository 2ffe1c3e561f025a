"""`sisa-scale status RUN_DIR`."""

import json
from pathlib import Path

import click

_ORDERS = ("name", "state", "step", "progress", "loss", "rate", "left", "goodput", "attempts", "memory")


@click.command("status")
@click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--verify", is_flag=True, help="Read the newest checkpoint and compare all its checksums.")
@click.option("--watch", "is_watched", is_flag=True, help="Redraw a live page until Ctrl-C; without a terminal, once.")
@click.option("--sort", "order", type=click.Choice(_ORDERS), default="name", help="Order of several runs.")
@click.option("--every", "seconds", type=click.FloatRange(min=0.2), default=2.0, help="Seconds between looks.")
def command(run_dir: Path, *, as_json: bool, verify: bool, is_watched: bool, order: str, seconds: float) -> None:
    """Say how the run in RUN_DIR stands: what it does now, how far it is, how its attempts ended, where time went.

    A directory of runs, such as runs/ or a study, is shown as a table with a line for each.
    """
    from sisa_scale.cli.common.console import console
    from sisa_scale.cli.common.status_page import print_status, status_json
    from sisa_scale.cli.common.watch_page import look, page, watch
    from sisa_scale.reporting.status import read_status
    from sisa_scale.runs.layout import find_runs, holds_run

    is_many = not holds_run(run_dir) and bool(find_runs(run_dir))
    if is_watched and (as_json or verify):
        raise click.UsageError("--watch draws a page: leave --json and --verify out")
    if is_watched:
        watch(run_dir, order, seconds)
    elif is_many and verify:
        raise click.UsageError("--verify reads the checkpoint of one run: name its directory")
    elif is_many:
        looks = look(run_dir, order)
        if as_json:
            click.echo(json.dumps([status_json(one.status) for one in looks], indent=2))
        else:
            console.print(page(looks, is_one=False))
    elif as_json:
        click.echo(json.dumps(status_json(read_status(run_dir, verify=verify)), indent=2))
    else:
        print_status(read_status(run_dir, verify=verify))
