"""`sisa-scale status RUN_DIR`."""

import json
from pathlib import Path

import click


@click.command("status")
@click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--verify", is_flag=True, help="Read the newest checkpoint and compare all its checksums.")
def command(run_dir: Path, *, as_json: bool, verify: bool) -> None:
    """Say how the run in RUN_DIR stands: what it does now, how far it is, how its attempts ended, where time went."""
    from sisa_scale.cli.status_page import print_status, status_json
    from sisa_scale.reporting.status import read_status

    status = read_status(run_dir, verify=verify)
    if as_json:
        click.echo(json.dumps(status_json(status), indent=2))
    else:
        print_status(status)
