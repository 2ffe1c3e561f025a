"""`sisa-scale data sample LOCATION`."""

from dataclasses import asdict

import click

from sisa_scale.cli.common.console import announce, render
from sisa_scale.cli.data.order import order_config, order_options


@click.command("sample")
@order_options
@click.option("--step", required=True, type=click.IntRange(0), help="Step of the run, counted from 0.")
@click.option("--index", default=0, show_default=True, type=int, help="Sequence in the global batch of that step.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    location: str,
    seed: int,
    global_batch_tokens: int,
    global_batch_ramp: str | None,
    sequence_tokens: int,
    step: int,
    index: int,
    as_json: bool,
) -> None:
    """Print sequence --index of step --step of the data set at LOCATION, and where it came from.

    The step numbers of metrics.jsonl count steps that were taken: what made the loss of line N is --step N-1.
    """
    from sisa_scale.data.read.trace import trace_sequence

    order = order_config(location, seed, global_batch_tokens, global_batch_ramp, sequence_tokens)
    found = trace_sequence(order, step, index)
    if as_json:
        render([], as_json=True, value=asdict(found))
        return
    announce(f"step {step}, sequence {index}: position {found.position:,}, epoch {found.epoch}")
    announce(f"{found.shard}, member {found.member}, row {found.row}, byte offset {found.offset:,}")
    rows = [
        {
            "document": document.number,
            "first token": document.first_token,
            "tokens": document.num_tokens,
            "file": document.file,
            "record": document.record,
            "text offset": document.text_offset,
        }
        for document in found.documents
    ]
    render(rows, as_json=False, title=f"documents in {found.location}")
    for document in found.documents:
        click.echo(click.style(f"--- document {document.number}", bold=True))
        click.echo(document.text)
