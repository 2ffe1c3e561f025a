"""The published numbers of the SISA paper (arXiv 2606.02332), read from `paper_results.csv`, beside those of our runs.

A run is told by its config: the kind of model, the number of parameters and, for SISA, d_s. Models with normalized
queries and keys, or other settings of the attention block, fit no row: the paper has none. A row that no run fits
stays, with nothing beside it.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

from sisa_scale.config.heads import attention_block_settings, rotation_settings
from sisa_scale.config.loading.load import config_from_plain
from sisa_scale.config.model import ModelConfig
from sisa_scale.evaluation.score import binomial_error
from sisa_scale.models.sizing import count_parameters
from sisa_scale.runs.files import Run
from sisa_scale.runs.logs.evaluations import ScoreRow

NOTES = {
    "sampling": "Errors are one standard error from the number of test items alone. The paper has one run of each "
    "configuration, so the spread between seeds is in none of its numbers.",
    "lambada-text": "The paper scores LAMBADA in its tokenised lower-case text; the task lambada here is OpenAI's "
    "text, on which a model of 50M scores about 5 points more. The two columns are not the same test.",
    "chance": "At these sizes HellaSwag and WinoGrande lie within sampling error of chance (25 and 50 %).",
    "choices": "The paper joins HellaSwag's ending to its context without a space, asks ARC-Easy without the frame of "
    "Question and Answer, and scores whole sentences of WinoGrande; ours are the texts of lm-evaluation-harness.",
    "needle-easy": "The needle test has 200 items, one filler sentence and five possible answers, and scores the first "
    "token of the answer: guessing among the five gives 20 %.",
    "end": "Ends of runs mix the steps 7000, 9000 and 9536 and different micro-batches.",
    "disturbed": "The paper's Transformer of 152M has 7.2 % at step 5000 and 13.1 % at 6000, less than its 50M "
    "Transformer before that: the run looks disturbed.",
    "lambda-frozen": "λ was stored in bf16 in this run and never moved from where it began.",
    "two-mamba3": "Two Mamba-3 models of 152M stand in different versions of the paper: one with the official kernel, "
    "and one of the authors' own with two scans, which later versions print.",
    "which-mamba3": "It is not known which of the two implementations of Mamba-3 this is.",
    "frozen-baseline": "The state-space baselines kept step sizes, decays and norms in bf16, where small updates are "
    "lost.",
    "two-schedules": "These runs had come to the end of a schedule of 3000 steps, then went on under one of 9536 with "
    "the learning rate raised again and the order of the data begun anew.",
    "step-label": "Printed as step 9000; the stored result with this value is of step 9536.",
    "two-values": "The printed value and the stored one differ.",
    "two-length-files": "Two stored files give different values at these lengths; their generators are not known.",
}
_ALWAYS = ("sampling", "lambada-text", "choices", "needle-easy", "end", "chance")
OURS = {
    "lambada": ("lambada", "lambada-openai", "accuracy"),
    "needle": ("needle-paper", "needle-paper", "first_token"),
    "hellaswag": ("hellaswag", "hellaswag", "accuracy_per_token"),
    "arc_easy": ("arc_easy", "arc_easy", "accuracy_per_token"),
    "winogrande": ("winogrande", "winogrande", "accuracy_per_token"),
}
_PARAMS = {"50m": 50.9e6, "152m": 151.9e6, "369m": 369.3e6}
_SAME_SIZE = 0.06
_LAST_STEP = 9537


@dataclass(frozen=True, slots=True)
class Published:
    """One number of the paper in percent. step: None at the end of the run; length_tokens: of the needle's context."""

    size: str
    model: str
    variant: str
    d_s: int | None
    step: int | None
    metric: str
    length_tokens: int | None
    percent: float
    num_items: int | None
    notes: tuple[str, ...]

    @property
    def standard_error(self) -> float | None:
        """Sampling error in percent, from the number of items."""
        if self.num_items is None:
            return None
        return 100 * binomial_error(round(self.percent / 100 * self.num_items), self.num_items)


@dataclass(frozen=True, slots=True)
class Beside:
    """A number of the paper and, where a run of ours fits it, that run's (percent) at the nearest sense of the step."""

    published: Published
    run: str | None
    ours: float | None
    ours_standard_error: float | None
    ours_step: int | None


def read_published() -> list[Published]:
    """Return every number, sorted by size, model and metric."""
    text = resources.files("sisa_scale.studies").joinpath("paper_results.csv").read_text(encoding="utf-8")
    return [
        Published(
            size=row["size"],
            model=row["model"],
            variant=row["variant"],
            d_s=_whole(row["d_s"]),
            step=_whole(row["step"]),
            metric=row["metric"],
            length_tokens=_whole(row["length_tokens"]),
            percent=float(row["percent"]),
            num_items=_whole(row["num_items"]),
            notes=tuple(row["notes"].split()),
        )
        for row in csv.DictReader(text.splitlines())
    ]


def ends(published: Iterable[Published]) -> list[Published]:
    """Return the last number of every configuration and metric, needle lengths left out."""
    last: dict[tuple[object, ...], Published] = {}
    for row in published:
        if row.length_tokens is None:
            key = (row.size, row.model, row.variant, row.d_s, row.metric)
            before = last.get(key)
            if before is None or (row.step or _LAST_STEP) > (before.step or _LAST_STEP):
                last[key] = row
    return list(last.values())


def put_beside(published: Sequence[Published], runs: Sequence[Run], *, by_step: bool) -> list[Beside]:
    """Return the numbers with those of our runs. by_step: of the same step, else of the last one measured."""
    models = [config_from_plain(run.config, str(run.path)).model for run in runs]
    found = []
    for row in published:
        fits = [run for run, model in zip(runs, models, strict=True) if _is_same(row, model)]
        score = None
        name = None
        for run in fits:
            name = run.name
            score = _score(run, row, by_step=by_step) or score
        value, error = (score.value, score.standard_error) if score else (None, None)
        found.append(Beside(row, name, value, error, score.step if score else None))
    return found


def notes_of(rows: Iterable[Published]) -> dict[str, str]:
    """Return the footnotes that rows need, general ones first."""
    metrics, named = set(), list(_ALWAYS)
    for row in rows:
        metrics.add(row.metric)
        named += row.notes
    needed = {"lambada-text": {"lambada"}, "needle-easy": {"needle"}, "chance": {"hellaswag", "winogrande"}}
    needed["choices"] = {"hellaswag", "arc_easy", "winogrande"}
    return {name: NOTES[name] for name in dict.fromkeys(named) if needed.get(name, metrics) & metrics}


def size_of(model: ModelConfig) -> str | None:
    """Return the size of the paper's that a model has by its number of parameters, or None."""
    total = count_parameters(model).total
    return next((size for size, wanted in _PARAMS.items() if abs(total / wanted - 1) < _SAME_SIZE), None)


def _is_same(row: Published, model: ModelConfig) -> bool:
    d_s = model.sisa.d_s if model.sisa is not None else None
    if model.is_normalized or attention_block_settings(model) | rotation_settings(model):
        return False  # another function than the paper's
    return model.kind == row.model and size_of(model) == row.size and (row.model != "sisa" or row.d_s in (None, d_s))


def _score(run: Run, row: Published, *, by_step: bool) -> ScoreRow | None:
    task, variant, metric = OURS[row.metric]
    if row.length_tokens is not None:
        return None  # the paper's generator for lengths is not known
    scores = [s for s in run.scores if (s.task, s.variant, s.metric) == (task, variant, metric) and s.value is not None]
    if by_step and row.step is not None:
        scores = [score for score in scores if score.step == row.step]
    return scores[-1] if scores else None


def _whole(text: str) -> int | None:
    return int(text) if text else None
