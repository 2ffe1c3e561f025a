"""`sisa-scale data mix RECIPE_OR_RUN`."""

from dataclasses import asdict
from pathlib import Path

import click

from sisa_scale.cli.common.console import announce, render
from sisa_scale.runs.layout import holds_run
from sisa_scale.runs.recipe import read_recipe


@click.command("mix")
@click.argument("recipe_or_run")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--steps", type=click.IntRange(0), help="Count the first so many steps; by default the whole schedule.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(recipe_or_run: str, overrides: tuple[str, ...], steps: int | None, as_json: bool) -> None:
    """Print what a run reads of each source: sequences, tokens, share and epochs.

    The counts are exact: which source a sequence comes from is arithmetic, the same before, during and after the run.
    effective_weight is the share of the first stage once its weights are whole numbers of a cycle. For the steps that a
    run has taken, give its directory and --steps.
    """
    from sisa_scale.data.read.sources import build_mixture
    from sisa_scale.data.read.stream import TokenStream
    from sisa_scale.planning.twins import load_recipe

    run_dir = Path(recipe_or_run)
    config = read_recipe(run_dir, overrides) if holds_run(run_dir) else load_recipe(recipe_or_run, overrides).config
    num_steps = config.total_steps if steps is None else steps
    stream = TokenStream(config.data)
    rows = [{key.removeprefix("num_"): value for key, value in asdict(use).items()} for use in stream.use(num_steps)]
    shares = build_mixture(config.data).stages[0].shares
    for row, source, share in zip(rows, config.data.sources.values(), shares, strict=True):
        row["first_weight"] = source.weight
        row["effective_weight"] = share / sum(shares)
    render(rows, as_json=as_json, title=f"{num_steps:,} steps", value={"steps": num_steps, "sources": rows})
    if not as_json:
        for stage in config.data.stages:
            announce(f"from step {config.data.batches.steps(stage.start):,} on: {dict(stage.weights)}")
    stream.check_limits(num_steps)
