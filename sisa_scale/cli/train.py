"""`sisa-scale train RECIPE [key=value ...]`."""

import click

from sisa_scale.planning.twins import load_recipe


@click.command("train")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def command(recipe: str, overrides: tuple[str, ...]) -> None:
    """Begin the run that RECIPE (a file, or the name of a shipped recipe) describes.

    Ctrl-C saves a checkpoint and stops; `sisa-scale resume` goes on from there.
    """
    config = load_recipe(recipe, overrides).config
    from sisa_scale.cli.common.running import expect_signals, run_and_describe

    expect_signals()
    from sisa_scale.launching.start import begin

    run_and_describe(begin(config))
