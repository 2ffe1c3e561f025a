"""`sisa-scale config show|explain RECIPE`."""

import dataclasses
from typing import Any

import click

from sisa_scale.cli.common.console import render
from sisa_scale.config.loading.load import dump_yaml, known_fields
from sisa_scale.config.run import to_plain
from sisa_scale.planning.twins import load_recipe


@click.group("config")
def command() -> None:
    """Show a resolved recipe, or where every value comes from."""


@command.command("show")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print RECIPE with everything it extends and OVERRIDES resolved, as YAML."""
    config = load_recipe(recipe, overrides).config
    if as_json:
        render([], as_json=True, value=to_plain(config))
    else:
        click.echo(dump_yaml(config), nl=False)


@command.command("explain")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print every value of RECIPE with the file and line, or the override, that set it, and what it means."""
    loaded = load_recipe(recipe, overrides)
    fields = known_fields(loaded.origins)
    plain = to_plain(loaded.config)
    rows = []
    for key, origin in loaded.origins.items():
        value = plain
        for part in key.split("."):
            value = value.get(part) if value is not None else None
        rows.append({"key": key, "value": value, "set by": origin, "meaning": _meaning(fields[key])})
    if as_json:
        render(rows, as_json=True)
    else:
        render([{**row, "value": str(row["value"])} for row in rows], as_json=False, title=recipe)


def _meaning(field: dataclasses.Field[Any]) -> str:
    """Return what a setting means, with the words that a table allows."""
    doc, choices = str(field.metadata["doc"]), field.metadata.get("choices")
    return f"{doc} ({', '.join(choices())})" if choices else doc
