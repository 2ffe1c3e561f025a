"""`sisa-scale average CHECKPOINT... --out DST`."""

from pathlib import Path

import click

from sisa_scale.cli.common.console import announce
from sisa_scale.cli.common.progress import byte_progress


@click.command("average")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CHECKPOINT...")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The checkpoint to write.")
def command(sources: tuple[Path, ...], out: Path) -> None:
    """Write the mean of the weights of several checkpoints of one model, in any form, as a checkpoint.

    It has no optimizer state: evaluate it, convert it, or let a new run begin from it.
    """
    from sisa_scale.conversion.average import average

    with byte_progress("written") as advance:
        average(sources, out, advance)
    announce(f"{out} holds the mean of {len(sources)} checkpoints")
