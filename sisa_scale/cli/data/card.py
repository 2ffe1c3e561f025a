"""`sisa-scale data card LOCATION`."""

from pathlib import Path

import click

from sisa_scale.cli.common.console import announce


@click.command("card")
@click.argument("location")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write.")
def command(location: str, out: Path | None) -> None:
    """Draw what the data set at LOCATION (a directory or URL) holds as one HTML page.

    It goes into the directory as card.html, for a URL into the current directory, or where --out says.
    """
    from sisa_scale.reporting.data_card import write_card

    announce(f"wrote {write_card(location, out)}")
