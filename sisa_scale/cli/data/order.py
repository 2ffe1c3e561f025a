"""The options that fix an order of tokens, as the commands that look into it take them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from sisa_scale.errors import ConfigError

if TYPE_CHECKING:
    from sisa_scale.config.data import DataConfig


def order_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add LOCATION, --seed, --global-batch-tokens and --sequence-tokens to a command."""
    for decorator in (
        click.option("--sequence-tokens", required=True, type=int, help="data.sequence_tokens of the run."),
        click.option("--global-batch-tokens", required=True, type=int, help="data.global_batch_tokens of the run."),
        click.option("--seed", default=0, show_default=True, help="data.seed of the run."),
        click.argument("location"),
    ):
        function = decorator(function)
    return function


def order_config(
    location: str, seed: int, global_batch_tokens: int, sequence_tokens: int, loader_workers: int = 0
) -> "DataConfig":
    """Return the section `data` of a run with that order. Raises ConfigError if the batch is no whole sequences."""
    from sisa_scale.config.data import DataConfig

    if sequence_tokens < 1 or global_batch_tokens < 1 or global_batch_tokens % sequence_tokens:
        raise ConfigError.at(
            "--global-batch-tokens",
            found=f"{global_batch_tokens} with sequences of {sequence_tokens}",
            allowed="a multiple of --sequence-tokens",
            remedy="Give those of the run.",
        )
    return DataConfig(
        path=location,
        seed=seed,
        global_batch_tokens=global_batch_tokens,
        sequence_tokens=sequence_tokens,
        loader_workers=loader_workers,
    )
