"""`sisa-scale study plan STUDY`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sisa_scale.config.study import StudyConfig
    from sisa_scale.studies.plan import Cost
    from sisa_scale.studies.trial import Piece


@click.command("plan")
@click.argument("study")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(study: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show the pieces of STUDY: parameters, tokens, FLOPs, twins, and what the whole costs; nothing is run."""
    from sisa_scale.cli.console import render
    from sisa_scale.config.study import load_study
    from sisa_scale.studies.expansion import expand
    from sisa_scale.studies.plan import check_budget, cost_of

    config = load_study(study, overrides)
    pieces = expand(config)
    cost = cost_of(pieces, config.cost)
    if as_json:
        value = {
            "study": config.name,
            "study_dir": str(config.directory),
            "pieces": [piece.to_plain() for piece in pieces],
            "cost": {**asdict(cost), "saved_share": cost.saved_share, "limit": config.cost.max_device_hours},
        }
        render([], as_json=True, value=value)
    else:
        _print(config, pieces, cost)
    check_budget(config, cost)


def _print(config: "StudyConfig", pieces: "Sequence[Piece]", cost: "Cost") -> None:
    from sisa_scale.cli.console import console, render

    shapes = {(piece.architecture, piece.size): piece for piece in pieces}
    render(
        [
            {
                "architecture": piece.architecture,
                "size": piece.size,
                "parameters": piece.counts.total,
                "all but the embedding": piece.counts.nonembedding,
                "layers": piece.config.model.num_layers,
                "width": piece.config.model.d_model,
                "d_ff": piece.config.model.d_ff,
                "matched": piece.match.quantity if piece.match else "",
                "difference": f"{piece.match.relative_difference:+.2%}" if piece.match else "",
                "FLOPs per token": piece.train_flops / piece.tokens,
                "learning rate": piece.config.optimizer.learning_rate,
            }
            for piece in shapes.values()
        ],
        as_json=False,
        title=f"{config.name}: shapes",
    )
    render(
        [
            {
                "piece": piece.name,
                "role": piece.role,
                "from step": piece.branch_step,
                "steps": piece.config.total_steps,
                "tokens": piece.tokens,
                "tokens per parameter": piece.tokens / piece.counts.total,
                "FLOPs": piece.train_flops,
                "its own": piece.own_flops,
            }
            for piece in pieces
        ],
        as_json=False,
        title=f"{config.name}: {len(pieces)} pieces",
    )
    limit = f", limit {config.cost.max_device_hours:g}" if config.cost.max_device_hours else ""
    rows = {
        "cost": f"{cost.device_hours:.3g} device-hours by estimate{limit}",
        "FLOPs": f"{cost.flops:.3g}",
        "branches": f"save {cost.saved_share:.0%} of the FLOPs of independent runs ({cost.independent_flops:.3g})",
        "next": f"sisa-scale study submit STUDY --to local    (into {config.directory})",
    }
    for label, text in rows.items():
        console.print(f"[bold]{label:<9}[/bold] {text}", soft_wrap=True)
