"""`sisa-scale data fingerprint LOCATION`."""

import click

from sisa_scale.cli.common.console import render
from sisa_scale.cli.data.order import order_config, order_options
from sisa_scale.errors import ConfigError


@click.command("fingerprint")
@order_options
@click.option("--steps", required=True, metavar="A:B", help="The steps from A on and before B, counted from 0.")
@click.option("--world-size", default=1, show_default=True, type=click.IntRange(1), help="Ranks that read.")
@click.option("--loader-workers", default=0, show_default=True, type=click.IntRange(0, 64), help="Threads of a rank.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    location: str,
    seed: int,
    global_batch_tokens: int,
    global_batch_ramp: str | None,
    sequence_tokens: int,
    steps: str,
    world_size: int,
    loader_workers: int,
    as_json: bool,
) -> None:
    """Print the SHA-256 of the stream of (step, index, tokens) of the data set at LOCATION.

    The tokens are read as the ranks of a run read them, and hashed rank after rank. It is the same for every
    --world-size and --loader-workers, and wherever the data set lies.
    """
    from sisa_scale.data.read.stream import TokenStream

    start, stop = _steps(steps)
    order = order_config(location, seed, global_batch_tokens, global_batch_ramp, sequence_tokens, loader_workers)
    stream = TokenStream(order)
    value = {
        "sha256": stream.sha256(start, stop, world_size),
        "data_fingerprint": stream.fingerprint,
        "seed": seed,
        "global_batch_tokens": global_batch_tokens,
        "global_batch_ramp": [stage.to_plain() for stage in order.global_batch_ramp],
        "sequence_tokens": sequence_tokens,
        "steps": [start, stop],
        "world_size": world_size,
        "loader_workers": loader_workers,
    }
    if as_json:
        render([], as_json=True, value=value)
    else:
        click.echo(value["sha256"])


def _steps(text: str) -> tuple[int, int]:
    start, colon, stop = text.partition(":")
    if not (colon and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        raise ConfigError.at(
            "--steps", found=repr(text), allowed="two steps A:B with A below B, such as 0:100", remedy="Write A:B."
        )
    return int(start), int(stop)
