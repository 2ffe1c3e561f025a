"""The scores of one checkpoint beside what the paper printed for models of its size."""

from collections.abc import Sequence
from typing import Any

from sisa_scale.cli.common.console import announce, render
from sisa_scale.config.model import ModelConfig
from sisa_scale.evaluation.score import Score
from sisa_scale.studies.results.published import OURS, Published, ends, notes_of, read_published, size_of


def print_beside_paper(name: str, model: ModelConfig, scores: Sequence[Score]) -> None:
    """Print a table with a column for every task that the paper has too; nothing for a size that it does not have."""
    size = size_of(model)
    mine = {(score.task, score.variant, score.metric): score for score in scores if score.value is not None}
    metrics = [metric for metric, key in OURS.items() if key in mine]
    if size is None or not metrics:
        return
    published = [row for row in ends(read_published()) if row.size == size and row.metric in metrics]
    ours: dict[str, Any] = {"model": f"{name} (this checkpoint)", "step": ""}
    ours |= {metric: _text(mine[OURS[metric]].value, mine[OURS[metric]].standard_error) for metric in metrics}
    rows = [ours]
    for model_name in dict.fromkeys(map(_name, published)):
        own = {row.metric: row for row in published if _name(row) == model_name}
        step = next(iter(own.values())).step
        row: dict[str, Any] = {"model": model_name, "step": "end" if step is None else f"{step:,}"}
        found = {metric: own.get(metric) for metric in metrics}
        row |= {m: "" if each is None else _text(each.percent, each.standard_error) for m, each in found.items()}
        rows.append(row)
    render(rows, as_json=False, title=f"beside the paper's models of {size}, in percent ± one standard error")
    for text in notes_of(published).values():
        announce(text)


def _name(row: Published) -> str:
    return " ".join(filter(None, [row.model, f"d_s {row.d_s}" if row.d_s else "", row.variant]))


def _text(value: float | None, error: float | None) -> str:
    return "" if value is None else f"{value:.1f}" + (f" ± {error:.1f}" if error is not None else "")
