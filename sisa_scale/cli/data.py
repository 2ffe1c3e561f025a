"""`sisa-scale data ...`: one file a command."""

import click

from sisa_scale.cli import (
    data_build,
    data_card,
    data_diff,
    data_fingerprint,
    data_inspect,
    data_mix,
    data_sample,
    data_verify,
)


@click.group("data")
def command() -> None:
    """Build data sets, look into them, and prove what a run reads."""


for _module in (
    data_build,
    data_card,
    data_inspect,
    data_verify,
    data_sample,
    data_diff,
    data_mix,
    data_fingerprint,
):
    command.add_command(_module.command)
