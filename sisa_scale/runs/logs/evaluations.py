"""What evaluations found, a line for each step: scores in `evaluations.jsonl`, continued prompts in `samples.jsonl`.

What was measured outside of the run stands in `scored_later.jsonl`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sisa_scale.runs.layout import EVALUATIONS, SAMPLES, SCORED_LATER
from sisa_scale.runs.logs.jsonl import append_line, picked, read_lines, read_rows

_SCALINGS = ("model.rope.scaling", "rope.scaling")
_WRITTEN = ("task", "variant", "metric", "value", "standard_error", "num_items", "unit", "note")


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One score; `variant` names the data, `value` is in `unit` and None when it was skipped, for the reason `note`."""

    step: int
    tokens: int
    task: str
    variant: str
    metric: str
    unit: str
    num_items: int
    value: float | None = None
    standard_error: float | None = None
    note: str = ""

    @property
    def is_heldout_loss(self) -> bool:
        """Whether this is the loss on held-out text, in nats per token, and was measured."""
        return (self.task, self.metric) == ("loss", "loss") and self.value is not None


@dataclass(frozen=True, slots=True)
class LaterScores:
    """What was measured on a checkpoint of a run outside of it. settings: what then differed from the run's recipe."""

    step: int
    time: str
    settings: tuple[str, ...]
    scores: tuple[ScoreRow, ...]

    @property
    def rope_scaling(self) -> str | None:
        """How rotary positions were scaled; None without a choice."""
        chosen = [setting.partition("=")[2] for setting in self.settings if setting.partition("=")[0] in _SCALINGS]
        return chosen[-1] if chosen else None


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and its continuation."""

    prompt: str
    text: str


@dataclass(frozen=True, slots=True)
class SampleRow:
    """All prompts of one step."""

    step: int
    tokens: int
    samples: tuple[Sample, ...]


def append_samples(run_dir: Path, row: SampleRow) -> None:
    """Note the continuations of one step."""
    append_line(run_dir / SAMPLES, asdict(row))


def read_samples(run_dir: Path, notes: list[str] | None = None) -> list[SampleRow]:
    """Return the continuations of every step once, in the order of the steps; see `jsonl.read_rows`."""

    def build(line: dict[str, Any]) -> SampleRow:
        samples = tuple(Sample(str(sample["prompt"]), str(sample["text"])) for sample in line["samples"])
        return SampleRow(int(line["step"]), int(line["tokens"]), samples)

    rows = {row.step: row for row in read_rows(run_dir / SAMPLES, build, [] if notes is None else notes)}
    return [rows[step] for step in sorted(rows)]


def append_scores(run_dir: Path, rows: Sequence[ScoreRow]) -> None:
    """Note the scores of one step, at least one."""
    append_line(run_dir / EVALUATIONS, _line(rows))


def append_later_scores(run_dir: Path, rows: Sequence[ScoreRow], time: str, settings: Sequence[str]) -> None:
    """Note scores of one step, at least one, that were measured outside the run."""
    append_line(run_dir / SCORED_LATER, {**_line(rows), "time": time, "settings": list(settings)})


def read_later_scores(run_dir: Path, notes: list[str] | None = None) -> list[LaterScores]:
    """Return what was measured outside the run, the oldest first; see `jsonl.read_rows`."""
    return read_rows(run_dir / SCORED_LATER, _later, [] if notes is None else notes)


def read_scores(run_dir: Path, notes: list[str] | None = None) -> list[ScoreRow]:
    """Return the scores of every evaluated step once, in the order of the steps; see `jsonl.read_rows`."""
    found = read_rows(run_dir / EVALUATIONS, _rows, [] if notes is None else notes)
    by_step = {rows[0].step: rows for rows in found if rows}
    return [row for step in sorted(by_step) for row in by_step[step]]


def scores_so_far(run_dir: Path) -> Iterator[ScoreRow]:
    """Yield the scores of a run that goes on; torn lines are left out."""
    for line in read_lines(run_dir / EVALUATIONS):
        yield from _rows(line)


def heldout_losses(run_dir: Path) -> dict[int, float]:
    """Return the held-out loss (nats per token) by step."""
    return {row.step: float(row.value or 0.0) for row in scores_so_far(run_dir) if row.is_heldout_loss}


def _line(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    scores = [{name: getattr(row, name) for name in _WRITTEN} for row in rows]
    return {"step": rows[0].step, "tokens": rows[0].tokens, "scores": scores}


def _later(line: dict[str, Any]) -> LaterScores:
    return LaterScores(int(line["step"]), str(line["time"]), tuple(map(str, line["settings"])), tuple(_rows(line)))


def _rows(line: dict[str, Any]) -> list[ScoreRow]:
    place = {"step": int(line["step"]), "tokens": int(line["tokens"])}
    rows = [ScoreRow(**picked(ScoreRow, score | place)) for score in line["scores"]]
    for row in rows:
        if not isinstance(row.value, int | float | None) or not isinstance(row.standard_error, int | float | None):
            raise TypeError(f"the value of {row.metric} is not a number")
    return rows
