"""The option that says which weights of a checkpoint are meant."""

import click

weights_option = click.option(
    "--weights",
    "which",
    type=click.Choice(["raw", "ema"]),
    default="raw",
    show_default=True,
    help="The weights, or their moving average (of a run with optimizer.ema_half_life_tokens).",
)
