"""What tasks of retrieval share: facts in held-out text, asked for at the end, at lengths beyond the trained one, too.

An item of length n is n input tokens: filler with statements in it, and a query at the end. The answer's tokens are
scored; an item is correct iff all of them are the argmax. The tests are in the family of RULER (2404.06654), with
generators and words of our own.

Lengths are multiples of the trained one (`evaluation.context_multiples`). An item beyond the length of a pass is never
cut: it has a pass of its own length. A length that the model does not accept is skipped, and the score says why.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sisa_scale.evaluation.score import Score, accuracy_score, skipped_score
from sisa_scale.evaluation.scoring import Item, ItemResult
from sisa_scale.evaluation.tasks.needle import single_token_words
from sisa_scale.evaluation.tasks.task import Task, skipped_task

if TYPE_CHECKING:
    from sisa_scale.evaluation.suite import EvaluationResources

CHANCE = "chance"
_MIN_FILLER = 8


@dataclass(frozen=True, slots=True)
class Question:
    """What an item asks, as token ids.

    chains: statements that stand in the text, those of a chain in their order, chains in any order; the first is the
    one that is asked for. query, answer: how the text ends.
    """

    chains: list[list[list[int]]]
    query: list[int]
    answer: list[int]

    @property
    def num_tokens(self) -> int:
        """Input tokens without filler; the last token of the answer is a target only."""
        stated = sum(len(statement) for chain in self.chains for statement in chain)
        return stated + len(self.query) + len(self.answer) - 1


@dataclass(frozen=True, slots=True)
class Questions:
    """How a task asks. draw: makes a question of different words, given as ids; `num_words` of them.

    num_tokens: of every question, without filler; chance_percent: of a guess among the answers that the text offers.
    """

    draw: Callable[[Sequence[int]], Question]
    num_words: int
    chance_percent: float
    chance_note: str


def haystack_task(resources: "EvaluationResources", name: str, questions: Questions) -> Task:
    """Return the task at all lengths of a run; what cannot be asked is skipped with the reason."""
    sequences = resources.checked_sequences()
    words = single_token_words(resources.tokenizer, sequences.reshape(-1))
    if len(words) < questions.num_words:
        reason = (
            f"the tokenizer has {len(words)} single-token words in the held-out text; {questions.num_words} are needed"
        )
        return skipped_task(skipped_score(name, name, "exact_match", unit="%", reason=reason))
    stream = sequences[:, :-1].reshape(-1)
    num_asked = questions.draw(words[: questions.num_words]).num_tokens
    items: list[Item] = []
    lengths: list[int] = []
    skipped: list[Score] = []
    for length in resources.context_lengths:
        obstacle = _obstacle(length, length - num_asked, resources.longest_context, len(stream))
        if obstacle:
            skipped.append(skipped_score(name, name, f"exact_match_{length}", unit="%", reason=obstacle))
            continue
        # One generator a length: the items of a length do not depend on what other lengths there are.
        random = np.random.default_rng([resources.seed, length, zlib.crc32(name.encode())])
        for index in range(resources.num_needle_items):
            question = questions.draw(random.choice(words, questions.num_words, replace=False).tolist())
            start = random.integers(len(stream) - (length - num_asked) + 1)
            filler = stream[start : start + length - num_asked].tolist()
            context = _hide(question.chains, filler, (index + random.random()) / resources.num_needle_items, random)
            items.append(_item([*context, *question.query], question.answer, name))
            lengths.append(length)
    trained = resources.trained_tokens or resources.sequence_tokens

    def summarize(results: Sequence[ItemResult]) -> list[Score]:
        return _scores(name, results, lengths, trained, questions)

    return Task(items, summarize, tuple(skipped))


def _item(context: list[int], answer: list[int], name: str) -> Item:
    return Item.continuation(context, answer, name)._replace(is_whole=True)


def _hide(
    chains: Sequence[Sequence[list[int]]], filler: list[int], share: float, random: np.random.Generator
) -> list[int]:
    """Return filler with the statements in it; a statement of the first chain stands at the given share of it."""
    placed: list[tuple[float, list[int]]] = []
    for number, chain in enumerate(chains):
        shares = random.random(len(chain))
        if number == 0:
            shares[0] = share
        placed += zip(np.sort(shares).tolist(), chain, strict=True)
    text: list[int] = []
    done = 0
    for at, statement in sorted(placed, key=lambda pair: pair[0]):
        position = int(at * (len(filler) + 1))
        text += filler[done:position]
        text += statement
        done = position
    return text + filler[done:]


def _obstacle(length: int, num_filler: int, longest: int, num_available: int) -> str | None:
    if length > longest:
        return (
            f"{length} tokens exceed model.max_length_tokens = {longest}; set it to {length} or more, with "
            "model.rope.scaling where positions are rotated"
        )
    if num_filler < _MIN_FILLER:
        return f"statements and query leave {num_filler} of {length} tokens for filler; {_MIN_FILLER} are needed"
    if num_filler > num_available:
        return f"the held-out text has {num_available} tokens; {num_filler} of filler are needed"
    return None


def _scores(
    name: str, results: Sequence[ItemResult], lengths: Sequence[int], trained: int, questions: Questions
) -> list[Score]:
    """Return exact match in percent: over the lengths up to the trained one, for each length, and a guess's."""
    exact, note = [result.is_exact for result in results], questions.chance_note
    within = [is_right for is_right, length in zip(exact, lengths, strict=True) if length <= trained]
    scores = []
    if within:
        scores.append(accuracy_score(name, name, "exact_match", within, f"contexts of up to {trained} tokens; {note}"))
    for length in dict.fromkeys(lengths):
        chosen = [is_right for is_right, of in zip(exact, lengths, strict=True) if of == length]
        scores.append(accuracy_score(name, name, f"exact_match_{length}", chosen, note))
    scores.append(Score(name, name, CHANCE, questions.chance_percent, None, len(results), "%", note))
    return scores
