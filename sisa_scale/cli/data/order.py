"""The options that fix an order of tokens, as the commands that look into it take them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from sisa_scale.errors import ConfigError

if TYPE_CHECKING:
    from sisa_scale.config.data import DataConfig


def order_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add LOCATION and the settings of `data` that fix an order to a command."""
    for decorator in (
        click.option("--sequence-tokens", required=True, type=int, help="data.sequence_tokens of the run."),
        click.option(
            "--global-batch-ramp",
            metavar="YAML",
            help="data.global_batch_ramp of the run: '[{until: 100 steps, global_batch_tokens: 8192}]'.",
        ),
        click.option("--global-batch-tokens", required=True, type=int, help="data.global_batch_tokens of the run."),
        click.option("--seed", default=0, show_default=True, help="data.seed of the run."),
        click.argument("location"),
    ):
        function = decorator(function)
    return function


def order_config(
    location: str,
    seed: int,
    global_batch_tokens: int,
    global_batch_ramp: str | None,
    sequence_tokens: int,
    loader_workers: int = 0,
) -> "DataConfig":
    """Return the section `data` of a run with that order. Raises ConfigError if a batch is no whole sequences."""
    from sisa_scale.config.data import DataConfig
    from sisa_scale.config.loading.plain import section_from_plain
    from sisa_scale.config.loading.strict import MismatchError
    from sisa_scale.config.loading.yaml_source import UNREADABLE, parse_scalar

    if sequence_tokens < 1 or global_batch_tokens < 1 or global_batch_tokens % sequence_tokens:
        raise ConfigError.at(
            "--global-batch-tokens",
            found=f"{global_batch_tokens} with sequences of {sequence_tokens}",
            allowed="a multiple of --sequence-tokens",
            remedy="Give those of the run.",
        )
    plain = {
        "path": location,
        "seed": seed,
        "global_batch_tokens": global_batch_tokens,
        "sequence_tokens": sequence_tokens,
        "loader_workers": loader_workers,
    }
    try:
        ramp = parse_scalar(global_batch_ramp) if global_batch_ramp else []
        return section_from_plain(DataConfig, {**plain, "global_batch_ramp": ramp})
    except (MismatchError, ValueError, *UNREADABLE) as error:
        raise ConfigError.at(
            "--global-batch-ramp",
            found=repr(global_batch_ramp),
            allowed=str(error),
            remedy="Give that of the run, as its recipe writes it.",
        ) from None
