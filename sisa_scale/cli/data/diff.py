"""`sisa-scale data diff A B`."""

import click

from sisa_scale.cli.common.console import announce, render

DIFFERENT_EXIT_CODE = 1


@click.command("diff")
@click.argument("first")
@click.argument("second")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(first: str, second: str, as_json: bool) -> None:
    """Compare two data sets by their manifests; exits with 1 if they differ."""
    from sisa_scale.data.read.verify import compare_datasets

    differences = compare_datasets(first, second)
    rows = [{"what": d.what, first: _text(d.first), second: _text(d.second)} for d in differences]
    if as_json or differences:
        render(
            rows,
            as_json=as_json,
            value=[d._asdict() | {"first": str(d.first), "second": str(d.second)} for d in differences],
        )
    else:
        announce("equal: the same tokens in the same order, of the same tokenizer")
    if differences:
        raise click.exceptions.Exit(DIFFERENT_EXIT_CODE)


def _text(value: object) -> str:
    return "-" if value is None else str(value)
