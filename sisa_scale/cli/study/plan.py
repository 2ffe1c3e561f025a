"""`sisa-scale study plan STUDY`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sisa_scale.config.study import StudyConfig
    from sisa_scale.studies.plan import Cost
    from sisa_scale.studies.trial import Trial


@click.command("plan")
@click.argument("study")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(study: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show the trials of STUDY: parameters, tokens, FLOPs, twins, and what the whole costs; nothing is run."""
    from sisa_scale.cli.common.console import render
    from sisa_scale.config.study import load_study
    from sisa_scale.studies.expansion import expand
    from sisa_scale.studies.plan import check_budget, cost_of
    from sisa_scale.studies.tuning.optima import read_tuning, tuned_rates

    config = load_study(study, overrides)
    trials = expand(config, tuned_rates(read_tuning(config.directory)))
    cost = cost_of(trials, config.cost)
    if as_json:
        value = {
            "study": config.name,
            "study_dir": str(config.directory),
            "trials": [trial.to_plain() for trial in trials],
            "cost": {**asdict(cost), "saved_share": cost.saved_share, "limit": config.cost.max_device_hours},
        }
        render([], as_json=True, value=value)
    else:
        _print(config, trials, cost)
    check_budget(config, cost)


def _print(config: "StudyConfig", trials: "Sequence[Trial]", cost: "Cost") -> None:
    from sisa_scale.cli.common.console import console, render
    from sisa_scale.studies.plan import cost_of

    tuning = [trial for trial in trials if trial.role == "tuning"]
    shapes = {(trial.architecture, trial.size): trial for trial in trials if trial.role != "tuning"}
    render(
        [
            {
                "architecture": trial.architecture,
                "size": trial.size,
                "parameters": trial.counts.total,
                "all but the embedding": trial.counts.nonembedding,
                "layers": trial.config.model.num_layers,
                "width": trial.config.model.d_model,
                "d_ff": trial.config.model.d_ff,
                "matched": trial.match.quantity if trial.match else "",
                "difference": f"{trial.match.relative_difference:+.2%}" if trial.match else "",
                "FLOPs per token": trial.train_flops / trial.tokens,
                "learning rate": "tuned" if trial.is_untuned else trial.config.optimizer.learning_rate,
            }
            for trial in shapes.values()
        ],
        as_json=False,
        title=f"{config.name}: shapes",
    )
    render(
        [
            {
                "trial": trial.name,
                "role": trial.role,
                "from step": trial.branch_step,
                "steps": trial.config.total_steps,
                "tokens": trial.tokens,
                "tokens per parameter": trial.tokens / trial.counts.total,
                "FLOPs": trial.train_flops,
                "its own": trial.own_flops,
            }
            for trial in trials
        ],
        as_json=False,
        title=f"{config.name}: {len(trials)} trials",
    )
    limit = f", limit {config.cost.max_device_hours:g}" if config.cost.max_device_hours else ""
    share = cost_of(tuning, config.cost).device_hours if tuning else 0.0
    part = f"{len(tuning)} trials come first, {share:.3g} of the device-hours" if tuning else "none: rates are stated"
    rows = {
        "tuning": part,
        "cost": f"{cost.device_hours:.3g} device-hours by estimate{limit}",
        "FLOPs": f"{cost.flops:.3g}",
        "branches": f"save {cost.saved_share:.0%} of the FLOPs of independent runs ({cost.independent_flops:.3g})",
        "next": f"sisa-scale study submit STUDY --to local    (into {config.directory})",
    }
    for label, text in rows.items():
        console.print(f"[bold]{label:<9}[/bold] {text}", soft_wrap=True)
