"""How a command says what went wrong."""

from contextlib import suppress

import click

from sisa_scale.errors import SisaScaleError


def print_error(error: SisaScaleError) -> None:
    """Print an error that is the user's to act on, with all its problems, to standard error."""
    with suppress(OSError):  # the terminal is gone; the exit code still says it
        click.secho(f"{type(error).__name__}:", fg="red", bold=True, err=True)
        for problem in error.problems:
            click.echo(f"  {problem}", err=True)
