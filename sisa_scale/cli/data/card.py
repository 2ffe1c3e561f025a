"""`sisa-scale data card DIR`."""

from pathlib import Path

import click

from sisa_scale.cli.console import announce


@click.command("card")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
def command(directory: Path) -> None:
    """Draw what the data set in DIRECTORY holds as one HTML page, card.html."""
    from sisa_scale.reporting.data_card import write_card

    announce(f"wrote {write_card(directory)}")
