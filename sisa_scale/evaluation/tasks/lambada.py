"""Task "lambada": predict the last word of a passage, on OpenAI's file or on a cloze set from the run's own text.

Protocol (the one lm-evaluation-harness calls `lambada_openai`): the text is split at its last space, the context and
" " + last word are tokenised separately and concatenated; a passage is correct iff every token of the word is the
argmax under teacher forcing. Perplexity is exp of the mean over passages of -log p(word), where log p(word) is the
sum over the word's tokens: it is per word, not per token.
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sisa_scale.errors import DataError
from sisa_scale.evaluation.score import Score, accuracy_score, perplexity_score, skipped_score
from sisa_scale.evaluation.scoring import Item, ItemResult
from sisa_scale.evaluation.tasks.task import Task, TextTokenizer, skipped_task
from sisa_scale.files import sha256_file

if TYPE_CHECKING:
    from sisa_scale.evaluation.suite import EvaluationResources

TASK, OPENAI, CLOZE = "lambada", "lambada-openai", "cloze-heldout"
OPENAI_NUM_PASSAGES = 5153
OPENAI_SHA256 = "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226"

_MIN_SENTENCES, _MAX_SENTENCES = 3, 8
_MIN_WORDS, _MAX_WORDS = 40, 120
_SENTENCE_BREAK = re.compile(r"(?<=[.!?])[\"'”’)]*\s+")
_LAYOUT = re.compile(r" {3}|-{3}|\*{3}|_{3}")  # title pages, tables and rulers, not prose
_LAST_WORD = re.compile(r" ([A-Za-z]{4,})[.!?][\"'”’)]*$")


def build(resources: "EvaluationResources", name: str) -> Task:
    """Return the task of a run."""
    if resources.lambada_path is None:
        resources.check_heldout()
    return lambada_task(
        resources.tokenizer,
        path=resources.lambada_path,
        documents=resources.heldout_documents,
        limit=resources.num_lambada_items if resources.lambada_path else resources.num_cloze_items,
        expected_sha256=resources.lambada_sha256,
    )


def lambada_task(
    tokenizer: TextTokenizer,
    *,
    path: Path | None = None,
    documents: Sequence[str] = (),
    limit: int | None = None,
    expected_sha256: str | None = OPENAI_SHA256,
) -> Task:
    """Return the task on the file at `path`, or on cloze passages of `documents` when there is none.

    limit: at most this many passages, the first ones. Scores name their data: "lambada-openai" or "cloze-heldout".
    """
    variant = OPENAI if path else CLOZE
    texts = read_lambada(path, expected_sha256) if path else cloze_passages(documents)
    origin = f"{TASK}, {path}:" if path else f"{TASK}, passage "
    items = [_item(tokenizer, text, f"{origin}{number}") for number, text in enumerate(islice(texts, limit), 1)]
    if not items:
        reason = "the held-out text has no passage that fits the cloze rules"
        return skipped_task(skipped_score(TASK, variant, "accuracy", unit="%", reason=reason))
    return Task(items, lambda results: lambada_scores(variant, results))


def lambada_scores(variant: str, results: Sequence[ItemResult]) -> list[Score]:
    """Return accuracy (%) and the perplexity of the last word."""
    note = "last words that also appear earlier in their passage" if variant == CLOZE else ""
    nats = [-result.log_probability for result in results]
    return [
        accuracy_score(TASK, variant, "accuracy", [result.is_exact for result in results], note),
        perplexity_score(TASK, variant, "perplexity", nats, unit="per word", note=note),
    ]


def split_last_word(text: str, where: object) -> tuple[str, str]:
    """Return the context and " " + last word; raises DataError when there is no such split."""
    context, space, word = text.rpartition(" ")
    if not space or not word or not context:
        raise DataError.at(
            where,
            found=repr(text[-40:]),
            allowed="a passage has a context, a space and a last word",
            remedy="Remove the passage or repair the file.",
        )
    return context, f" {word}"


def read_lambada(path: Path, expected_sha256: str | None = OPENAI_SHA256) -> Iterator[str]:
    """Yield the passages of OpenAI's `lambada_test.jsonl`, one `{"text": ...}` a line.

    Raises DataError when the file is missing, is not the published one (`expected_sha256`, None for no check) or has
    another number of passages.
    """
    remedy = "Use the lambada_test.jsonl published with GPT-2, or leave the path out for the cloze set."
    if not path.is_file():
        raise DataError.at(path, found="no such file", allowed="LAMBADA is one JSON Lines file", remedy=remedy)
    lines = path.read_bytes().splitlines()
    if len(lines) != OPENAI_NUM_PASSAGES:
        allowed = f"LAMBADA has {OPENAI_NUM_PASSAGES}"
        raise DataError.at(path, found=f"{len(lines)} passages", allowed=allowed, remedy=remedy)
    digest = sha256_file(path)
    if expected_sha256 not in (None, digest):
        allowed = f"the published file has SHA-256 {expected_sha256}"
        raise DataError.at(path, found=f"SHA-256 {digest}", allowed=allowed, remedy=remedy)
    for number, line in enumerate(lines, 1):
        try:
            yield str(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError):
            allowed = 'every line is a JSON object with a "text"'
            raise DataError.at(
                f"{TASK}, {path}:{number}", found=repr(line[:60]), allowed=allowed, remedy=remedy
            ) from None


def cloze_passages(documents: Sequence[str]) -> Iterator[str]:
    """Yield passages in the manner of LAMBADA, one of each document in turn until all are exhausted.

    A passage is 3 to 8 consecutive whole sentences of one document with 40 to 120 words, the shortest that fits from
    its first sentence on. Its last word is ASCII letters only, at least four, follows a space and ends the sentence;
    it appears as a whole word, in the same case, in an earlier sentence of the passage and not again in the last one,
    so that the passage and not the sentence gives it away. Punctuation after it is dropped. A passage with three
    spaces, hyphens, asterisks or underscores in a row is layout, not prose, and left out. Passages of a document do
    not overlap. Nothing is drawn at random: the same documents give the same passages in the same order.
    """
    streams = [_document_passages(document) for document in documents]
    while streams:
        alive = []
        for stream in streams:
            if (passage := next(stream, None)) is not None:
                yield passage
                alive.append(stream)
        streams = alive


def _document_passages(document: str) -> Iterator[str]:
    bounds = _sentence_bounds(document)
    first = 0
    while first < len(bounds):
        found = _passage_from(document, bounds, first)
        if found is None:
            first += 1
            continue
        passage, first = found
        yield passage


def _passage_from(document: str, bounds: list[tuple[int, int]], first: int) -> tuple[str, int] | None:
    """Return the passage that begins with sentence `first` and the number of the sentence after it."""
    start = bounds[first][0]
    for last in range(first + _MIN_SENTENCES - 1, min(first + _MAX_SENTENCES, len(bounds))):
        sentence_start, end = bounds[last]
        num_words = len(document[start:end].split())
        if num_words > _MAX_WORDS or _LAYOUT.search(document, start, end):
            return None
        match = _LAST_WORD.search(document[sentence_start:end])
        if num_words < _MIN_WORDS or match is None:
            continue
        word_start = sentence_start + match.start(1)
        whole_word = re.compile(rf"\b{match[1]}\b")
        earlier, same = document[start:sentence_start], document[sentence_start:word_start]
        if whole_word.search(earlier) and not whole_word.search(same):
            return document[start : sentence_start + match.end(1)], last + 1
    return None


def _sentence_bounds(document: str) -> list[tuple[int, int]]:
    bounds, start = [], 0
    for gap in _SENTENCE_BREAK.finditer(document):
        end = gap.start() + len(gap[0].rstrip())
        bounds.append((start, end))
        start = gap.end()
    if start < len(document):
        bounds.append((start, len(document)))
    return bounds


def _item(tokenizer: TextTokenizer, text: str, origin: str) -> Item:
    context, word = split_last_word(text, origin)
    # A context that vanishes in the tokenizer still has to be a position to predict from.
    return Item.continuation(tokenizer.encode(context) or [tokenizer.eos_id], tokenizer.encode(word), origin)
