"""`sisa-scale convert SRC DST --to FORM`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sisa_scale.cli.common.console import announce
from sisa_scale.cli.common.progress import byte_progress
from sisa_scale.cli.common.weights_option import weights_option

if TYPE_CHECKING:
    from sisa_scale.conversion.moving_average import Which


@click.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "form",
    type=click.Choice(["native", "safetensors", "huggingface", "official", "deepspeed-universal"]),
    required=True,
)
@click.option("--tokenizer", type=click.Path(path_type=Path, dir_okay=False), help="tokenizer.json for huggingface.")
@click.option("--shard-gigabytes", default=5.0, show_default=True, help="Largest file, in 10^9 bytes.")
@weights_option
def command(
    source: Path, destination: Path, form: str, tokenizer: Path | None, shard_gigabytes: float, which: "Which"
) -> None:
    """Write the checkpoint SOURCE in another form.

    SOURCE is a run directory (its newest checkpoint), one checkpoint, a directory that this command wrote, or a
    final.pt in the layout of the paper's authors. One tensor at a time is read and written. DESTINATION appears only
    if its logits on a fixed batch are bitwise those of SOURCE in fp32.
    """
    from sisa_scale.conversion.convert import FORMS, convert

    wanted = next(known for known in FORMS if known == form)
    with byte_progress("written") as advance:
        convert(
            source,
            destination,
            wanted,
            shard_bytes=int(shard_gigabytes * 1e9),
            tokenizer=tokenizer,
            which=which,
            advance=advance,
        )
    announce(f"{destination} holds {source} as {form}; logits are equal")
