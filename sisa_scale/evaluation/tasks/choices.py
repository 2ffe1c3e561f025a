"""Tasks "hellaswag", "arc_easy", "piqa" and "winogrande": which of a few continuations is the likeliest.

Protocol (that of lm-evaluation-harness 0.4, zero-shot): every continuation is scored after its context; `accuracy`
takes the highest sum of log-probabilities, `accuracy_per_character` the highest sum over the characters of the
choice (the harness's `acc` and `acc_norm`), `accuracy_per_token` the highest mean over its tokens. WinoGrande asks
after which of two contexts the same continuation is the likeliest, so its choices have one length.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sisa_scale.errors import DataError
from sisa_scale.evaluation.score import Score, accuracy_score, skipped_score
from sisa_scale.evaluation.scoring import Item, ItemResult
from sisa_scale.evaluation.tasks.task import Task, TextTokenizer, skipped_task

if TYPE_CHECKING:
    from sisa_scale.evaluation.suite import EvaluationResources

_BRACKETS = re.compile(r"\[.*?\]")


@dataclass(frozen=True, slots=True)
class Question:
    """Contexts and what continues each of them; `answer` is the number of the right one."""

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    answer: int


def build(resources: "EvaluationResources", name: str) -> Task:
    """Return the task of a run, one of CHOICE_TASKS."""
    return choice_task(name, resources.tokenizer, resources.questions_directory, resources.num_questions)


def choice_task(name: str, tokenizer: TextTokenizer, directory: Path | None, limit: int | None = None) -> Task:
    """Return a task on the file `NAME.jsonl` of a directory; skipped, with the reason, where there is no directory.

    limit: at most so many questions, the first ones.
    """
    if directory is None:
        reason = "evaluation.questions_directory names no directory"
        return skipped_task(skipped_score(name, name, "accuracy", unit="%", reason=reason))
    path = directory / f"{name}.jsonl"
    questions = list(islice(read_questions(name, path), limit))
    items = [
        _item(tokenizer, context, continuation, f"{name}, {path}:{number}")
        for number, question in enumerate(questions, 1)
        for context, continuation in zip(question.contexts, question.continuations, strict=True)
    ]
    return Task(items, lambda results: choice_scores(name, questions, results))


def choice_scores(name: str, questions: Sequence[Question], results: Sequence[ItemResult]) -> list[Score]:
    """Return the accuracies (%) of the protocol; `results` has one entry a choice, in order."""
    outcomes: dict[str, list[bool]] = {"accuracy": [], "accuracy_per_character": [], "accuracy_per_token": []}
    rest = iter(results)
    for question in questions:
        own = list(islice(rest, len(question.contexts)))
        sums = np.array([result.log_probability for result in own])
        characters = [max(1, len(text.removeprefix(" "))) for text in question.continuations]
        tokens = [result.num_tokens for result in own]
        for metric, values in zip(outcomes, (sums, sums / characters, sums / tokens), strict=True):
            outcomes[metric].append(int(np.argmax(values)) == question.answer)
    return [accuracy_score(name, name, metric, right) for metric, right in outcomes.items()]


def read_questions(name: str, path: Path) -> list[Question]:
    """Read a file of JSON lines with the fields of the published data set, or {"ctx", "choices", "gold"} as they are.

    Raises DataError when the file is missing, empty or has a line of another form.
    """
    remedy = "Export the published data set as JSON lines, one question a line, under this name."
    if not path.is_file():
        raise DataError.at(path, found="no such file", allowed=f"{name} is one JSON Lines file", remedy=remedy)
    questions = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):  # not at every end of a line that Unicode knows
        if not line.strip():
            continue
        try:
            question = _question(name, json.loads(line))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise DataError.at(
                f"{name}, {path}:{number}",
                found=line[:80].decode(errors="backslashreplace"),
                allowed=f"fields of {name}: {_FIELDS[name]}",
                remedy=remedy,
            ) from None
        questions.append(question)
    if not questions:
        raise DataError.at(path, found="an empty file", allowed="one question a line", remedy=remedy)
    return questions


def _question(name: str, row: Mapping[str, Any]) -> Question:
    if "ctx_options" in row:
        contexts = tuple(row["ctx_options"])
        question = Question(contexts, (row["target"],) * len(contexts), int(row["gold"]))
    elif "gold" in row:
        choices = tuple(row["choices"])
        context = row.get("ctx_lmeval_like", row["ctx"])
        question = Question((context,) * len(choices), choices, int(row["gold"]))
    else:
        question = _PUBLISHED[name](row)
    if not 0 <= question.answer < len(question.contexts) or not all(question.continuations):
        raise ValueError("no such choice")
    return question


def _hellaswag(row: Mapping[str, Any]) -> Question:
    context = _cleaned(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    endings = tuple(f" {_cleaned(ending)}" for ending in row["endings"])
    return Question((context,) * len(endings), endings, int(row["label"]))


def _arc_easy(row: Mapping[str, Any]) -> Question:
    texts, labels = row["choices"]["text"], list(row["choices"]["label"])
    context = f"Question: {row['question']}\nAnswer:"
    return Question((context,) * len(texts), tuple(f" {text}" for text in texts), labels.index(row["answerKey"]))


def _piqa(row: Mapping[str, Any]) -> Question:
    context = f"Question: {row['goal']}\nAnswer:"
    return Question((context,) * 2, (f" {row['sol1']}", f" {row['sol2']}"), int(row["label"]))


def _winogrande(row: Mapping[str, Any]) -> Question:
    before, gap, after = row["sentence"].partition("_")
    if not gap:
        raise ValueError("no gap")
    contexts = (before + row["option1"], before + row["option2"])
    return Question(contexts, (f" {after.strip()}",) * 2, int(row["answer"]) - 1)


def _cleaned(text: str) -> str:
    """Return HellaSwag's text without the traces of its source, as the harness does."""
    text = text.strip().replace(" [title]", ". ")
    return _BRACKETS.sub("", text).replace("  ", " ")


def _item(tokenizer: TextTokenizer, context: str, continuation: str, origin: str) -> Item:
    """Return the item; both are tokenized together, so that no merge differs from that of the whole text."""
    stripped = context.rstrip()
    whole = tokenizer.encode(context + continuation)
    num_context = len(tokenizer.encode(stripped))
    return Item.continuation(whole[:num_context] or [tokenizer.eos_id], whole[num_context:], origin)


_PUBLISHED: dict[str, Callable[[Mapping[str, Any]], Question]] = {
    "hellaswag": _hellaswag,
    "arc_easy": _arc_easy,
    "piqa": _piqa,
    "winogrande": _winogrande,
}
_FIELDS = {
    "hellaswag": "activity_label, ctx_a, ctx_b, endings, label",
    "arc_easy": "question, choices {text, label}, answerKey",
    "piqa": "goal, sol1, sol2, label",
    "winogrande": "sentence, option1, option2, answer",
}
