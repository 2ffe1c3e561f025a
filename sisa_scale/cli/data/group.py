"""`sisa-scale data ...`: one file a command."""

import click

from sisa_scale.cli.data import build as data_build
from sisa_scale.cli.data import card as data_card
from sisa_scale.cli.data import diff as data_diff
from sisa_scale.cli.data import fetch as data_fetch
from sisa_scale.cli.data import fingerprint as data_fingerprint
from sisa_scale.cli.data import inspect as data_inspect
from sisa_scale.cli.data import mix as data_mix
from sisa_scale.cli.data import sample as data_sample
from sisa_scale.cli.data import verify as data_verify


@click.group("data")
def command() -> None:
    """Build data sets, look into them, and prove what a run reads."""


for _module in (
    data_fetch,
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
