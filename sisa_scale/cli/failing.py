"""How a command says what went wrong."""

import click

from sisa_scale.errors import SisaScaleError


def print_error(error: SisaScaleError) -> None:
    """Print an error that is the user's to act on, with all its problems, to standard error."""
    click.secho(f"{type(error).__name__}:", fg="red", bold=True, err=True)
    for problem in error.problems:
        click.echo(f"  {problem}", err=True)
