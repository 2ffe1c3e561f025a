"""`sisa-scale inspect CHECKPOINT`."""

from dataclasses import asdict
from pathlib import Path

import click

from sisa_scale.cli.common.console import announce, render


@click.command("inspect")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(checkpoint: Path, as_json: bool) -> None:
    """Show the tensors of a checkpoint of any form, with their shapes and sizes, and where it comes from."""
    from sisa_scale.conversion.compare import summaries
    from sisa_scale.conversion.forms.opening import open_weights

    weights = open_weights(checkpoint)
    said = weights.description
    rows = [{**asdict(summary), "shape": str(list(summary.shape))} for summary in summaries(weights)]
    facts = {
        "checkpoint": said.origin,
        "name": said.run.name,
        "description": said.run.description,
        "kind": said.run.model.kind,
        "step": said.step,
        "tokens": said.tokens,
        "data_fingerprint": said.data_fingerprint,
        "has_optimizer_state": bool(weights.optimizer_states),
    }
    if not as_json:
        for name, value in facts.items():
            announce(f"{name}: {value}")
    render(rows, as_json=as_json, value={**facts, "tensors": rows})
