"""Task "needle-paper": the needle test in the form the SISA paper's benchmark code runs it, for comparison only.

Filler is one pangram sentence repeated 50 times; the needle is one of five fixed (phrase, value) pairs at a token
position uniform in [5, available / 2]; the query repeats the phrase; an item is correct iff the argmax after it is the
first token of " value". 200 items, seed 42. A budget of 512 tokens gives contexts of 502.

It has known faults, which is why it is not our needle test: filler never changes, only five answers exist, the needle
is always in the first half, and one token is asked for. The wording around phrase and value and the order of the
draws are ours, so the items have the same distribution as the published ones but are not the same items.
"""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sisa_scale.evaluation.score import Score, accuracy_score, skipped_score
from sisa_scale.evaluation.scoring import Item, ItemResult
from sisa_scale.evaluation.tasks.task import Task, TextTokenizer, skipped_task

if TYPE_CHECKING:
    from sisa_scale.evaluation.suite import EvaluationResources

TASK = VARIANT = "needle-paper"
_PANGRAM = "The quick brown fox jumps over the lazy dog. "
_PAIRS = (
    ("secret code", "ALPHA"),
    ("password", "BRAVO"),
    ("answer", "CHARLIE"),
    ("key number", "DELTA"),
    ("magic word", "ECHO"),
)
_BUDGET_TOKENS, _MARGIN_TOKENS = 512, 10
_FIRST_POSITION = 5
_NUM_ITEMS, _SEED = 200, 42


def build(resources: "EvaluationResources", name: str) -> Task:
    """Return the task of a run."""
    return needle_paper_task(resources.tokenizer, sequence_tokens=resources.sequence_tokens)


def needle_paper_task(tokenizer: TextTokenizer, *, sequence_tokens: int) -> Task:
    """Return the task; skipped, with the reason, where it does not fit this tokenizer or sequence length."""
    filler = tokenizer.encode(_PANGRAM * 50)
    answers = [tokenizer.encode(f" {value}")[0] for _, value in _PAIRS]
    context_tokens = _BUDGET_TOKENS - _MARGIN_TOKENS
    if context_tokens > sequence_tokens:
        return _skipped(f"contexts of {context_tokens} tokens do not fit in sequence_tokens = {sequence_tokens}")
    if len(set(answers)) < len(answers):
        return _skipped("two answers begin with the same token under this tokenizer")
    draw = random.Random(_SEED)
    items: list[Item] = []
    for _ in range(_NUM_ITEMS):
        index = draw.randrange(len(_PAIRS))
        phrase, value = _PAIRS[index]
        needle = tokenizer.encode(f" The {phrase} is {value}.")
        query = tokenizer.encode(f" The {phrase} is")
        num_available = context_tokens - len(needle) - len(query)
        if num_available < 2 * _FIRST_POSITION:
            return _skipped("needle and query leave no room for filler under this tokenizer")
        position = draw.randint(_FIRST_POSITION, num_available // 2)
        hay = filler[:num_available]
        items.append(Item.continuation([*hay[:position], *needle, *hay[position:], *query], answers[index : index + 1]))
    return Task(items, _scores)


def _scores(results: Sequence[ItemResult]) -> list[Score]:
    note = "first token of one of five fixed answers; 20 % for a guess among them"
    return [accuracy_score(TASK, VARIANT, "first_token", [result.is_exact for result in results], note)]


def _skipped(reason: str) -> Task:
    return skipped_task(skipped_score(TASK, VARIANT, "first_token", unit="%", reason=reason))
