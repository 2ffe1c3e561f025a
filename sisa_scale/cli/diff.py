"""`sisa-scale diff A B`."""

from dataclasses import asdict
from pathlib import Path

import click

from sisa_scale.cli.common.console import announce, render

DIFFERENT_EXIT_CODE = 1


@click.command("diff")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(first: Path, second: Path, as_json: bool) -> None:
    """Compare the weights of two checkpoints of any form, tensor by tensor; exits with 1 if they differ."""
    from sisa_scale.conversion.compare import differences
    from sisa_scale.conversion.forms.opening import open_weights

    found = [asdict(difference) for difference in differences(open_weights(first), open_weights(second))]
    if found or as_json:
        render(found, as_json=as_json)
    else:
        announce("equal: all weights are the same bits")
    if found:
        raise click.exceptions.Exit(DIFFERENT_EXIT_CODE)
