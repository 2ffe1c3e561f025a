"""`sisa-scale study reproduce-paper [RUN_DIR ...]`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sisa_scale.studies.results.published import Beside

_METRICS = ("lambada", "needle", "hellaswag", "arc_easy", "winogrande")


@click.command("reproduce-paper")
@click.argument("run_dirs", nargs=-1, type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--by-step", is_flag=True, help="All steps that the paper has, and ours of the same steps.")
@click.option("--metric", "metrics", multiple=True, type=click.Choice(_METRICS), help="These alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(run_dirs: tuple[Path, ...], by_step: bool, metrics: tuple[str, ...], as_json: bool) -> None:
    """Put the paper's numbers for 50M, 152M and 369M beside those of the runs in RUN_DIRS.

    Every number has its sampling error. What no run of ours has measured is shown as missing.
    """
    from sisa_scale.cli.common.console import console, render
    from sisa_scale.runs.files import read_run
    from sisa_scale.studies.results.published import ends, notes_of, put_beside, read_published

    published = read_published()
    chosen = [row for row in published if row.length_tokens is None] if by_step else ends(published)
    chosen = [row for row in chosen if not metrics or row.metric in metrics]
    rows = put_beside(chosen, [read_run(path) for path in run_dirs], by_step=by_step)
    notes = notes_of(chosen)
    if as_json:
        value = [
            {**asdict(row), "published": {**asdict(row.published), "standard_error": row.published.standard_error}}
            for row in rows
        ]
        render([], as_json=True, value={"rows": value, "notes": notes})
        return
    letters = {name: chr(ord("a") + i) for i, name in enumerate(notes)}
    for size in dict.fromkeys(row.published.size for row in rows):
        lines = [_line(row, letters, by_step=by_step) for row in rows if row.published.size == size]
        render(lines, as_json=False, title=f"{size}: the paper and these runs, in percent ± one standard error")
    for name, text in notes.items():
        console.print(f"[bold]{letters[name]}[/bold]  {text}")


def _line(row: "Beside", letters: dict[str, str], *, by_step: bool) -> dict[str, Any]:
    published = row.published
    d_s = f"d_s {published.d_s}" if published.d_s else ""
    model = " ".join(filter(None, [published.model, d_s, published.variant]))
    return {
        "model": model,
        "metric": published.metric,
        "step": "end" if published.step is None else str(published.step),
        "paper": _text(published.percent, published.standard_error),
        "ours": "missing" if row.ours is None else _text(row.ours, row.ours_standard_error),
        "run": row.run or "",
        "at step": "" if row.ours_step is None else str(row.ours_step),
        "notes": " ".join(letters[name] for name in published.notes),
    }


def _text(value: float, error: float | None) -> str:
    return f"{value:.1f}" + (f" ± {error:.1f}" if error is not None else "")
