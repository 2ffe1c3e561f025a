"""What the `laws` commands share: the table and its options, warnings, and JSON for results and refusals."""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

_NOTICES = "sisa_scale.laws.notices"  # of the table, in click's context
Command = TypeVar("Command", bound=Callable[..., Any])

TABLE = click.argument("table", type=click.Path(path_type=Path, dir_okay=False))
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
FORM = click.option("--form", default="chinchilla", show_default=True, help="The form of the law; see the docs.")
OBJECTIVE = click.option(
    "--objective", default="huber:1e-3", show_default=True, help="huber[:delta], lad, log-mse, raw-huber, raw-mse."
)
_SAMPLING = (
    click.option("--resamples", default=4000, show_default=True, type=click.IntRange(100), help="Of the bootstrap."),
    click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap."),
    click.option("--level", default=0.95, show_default=True, type=click.FloatRange(0.5, 0.999), help="Of intervals."),
)
_READING = (
    click.option("--columns", default="", help="meaning=column,... for other names: params_scaling=N,tokens=D."),
    click.option("--tokens-from-flops", is_flag=True, help="Tokens are train_flops / (6 params_scaling)."),
    click.option("--by", default="architecture", show_default=True, help="Column that names architectures."),
    click.option("--architecture", help="Use the rows of this architecture only."),
    click.option("--cluster", help="Column whose equal values are one cluster of the bootstrap."),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read the table."""

    columns: str
    tokens_from_flops: bool
    by: str
    architecture: str | None
    cluster: str | None


def reading(function: Command) -> Command:
    """Add the options of the table; the command gets them as `reading`."""

    @wraps(function)
    def with_reading(
        columns: str, tokens_from_flops: bool, by: str, architecture: str | None, cluster: str | None, **rest: Any
    ) -> Any:
        return function(reading=Reading(columns, tokens_from_flops, by, architecture, cluster), **rest)

    return _apply(_READING, with_reading)  # type: ignore[return-value]


def sampling(function: Command) -> Command:
    """Add the options of the bootstrap: resamples, seed, level."""
    return _apply(_SAMPLING, function)


def refusals_as_json(function: Command) -> Command:
    """Print a refusal as JSON too where --json is asked; the message and the exit code stay."""

    @wraps(function)
    def with_refusals(**options: Any) -> Any:
        from sisa_scale.scaling.report.results import refusal_values
        from sisa_scale.scaling.table.notices import RefusalError

        try:
            return function(**options)
        except RefusalError as error:
            notices = click.get_current_context().meta.get(_NOTICES, ())
            if options["as_json"]:
                click.echo(json.dumps(refusal_values(error, notices), indent=2))
            else:
                warn(notices)
            raise

    return with_refusals  # type: ignore[return-value]


def load(path: Path, options: Reading) -> Any:
    """Return the checked table. Its warnings are shown with a refusal of what follows."""
    from sisa_scale.scaling.table.checks import load_table
    from sisa_scale.scaling.table.table import parse_columns

    table = load_table(
        path,
        columns=parse_columns(options.columns),
        by=options.by,
        tokens_from_flops=options.tokens_from_flops,
        architecture=options.architecture,
        cluster_column=options.cluster,
    )
    click.get_current_context().meta[_NOTICES] = table.notices
    return table


def emit_json(value: dict[str, Any], out: Path | None = None) -> None:
    """Print a result as JSON."""
    from sisa_scale.scaling.report.results import plain

    click.echo(json.dumps(plain(value), indent=2))


def warn(notices: Iterable[Any]) -> None:
    """Print warnings with their codes."""
    for notice in dict.fromkeys(notices):
        click.secho(f"warning [{notice.code}] {notice.text}", fg="yellow", err=True)


def show(rows: list[dict[str, Any]], title: str) -> None:
    """Print rows as a table."""
    from sisa_scale.cli.common.console import render

    sys.stdout.flush()
    render(rows, as_json=False, title=title)


def interval_text(interval: list[float] | None, digits: int = 4) -> str:
    """Return "low to high", "open" for an end that the runs do not bound, or a dash."""
    if interval is None:
        return "–"
    low, high = (f"{end:.{digits}g}" if 0 < abs(end) < float("inf") else "open" for end in interval)
    return f"{low} to {high}"


def numbers(text: str, option: str) -> list[float]:
    """Read numbers separated by commas."""
    from sisa_scale.scaling.table.notices import refusal

    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or min(found) <= 0:
        raise refusal(
            "bad-request",
            option,
            found=repr(text),
            allowed="positive numbers separated by commas",
            remedy="For example 3.2,3.0.",
        )
    return found


def _apply(options: Iterable[Callable[[Any], Any]], function: Command) -> Command:
    for option in reversed(list(options)):
        function = option(function)
    return function
