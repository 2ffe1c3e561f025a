"""Task "recall": pairs of words, then one of the first words again; its partner is scored.

Words are drawn anew for each item, so nothing but the context tells the answer (associative recall, 2312.04927, without
text around it). The number of pairs is what a state of a fixed size has to hold.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sisa_scale.evaluation.score import Score, accuracy_score, skipped_score
from sisa_scale.evaluation.scoring import Item, ItemResult
from sisa_scale.evaluation.tasks.needle import single_token_words
from sisa_scale.evaluation.tasks.task import Task

if TYPE_CHECKING:
    from sisa_scale.evaluation.suite import EvaluationResources

TASK = "recall"
NUM_PAIRS = (4, 16, 64)


def build(resources: "EvaluationResources", name: str) -> Task:
    """Return the task of a run; numbers of pairs that the words or the length do not allow are skipped."""
    words = single_token_words(resources.tokenizer, resources.checked_sequences().reshape(-1))
    items: list[Item] = []
    sizes: list[int] = []
    skipped: list[Score] = []
    for num_pairs in NUM_PAIRS:
        num_tokens = 2 * num_pairs + 2
        if len(words) < 2 * num_pairs or num_tokens > resources.sequence_tokens:
            reason = f"{2 * num_pairs} words and {num_tokens} tokens are needed; there are {len(words)} words, and "
            reason += f"{resources.sequence_tokens} tokens fit"
            skipped.append(skipped_score(TASK, TASK, _metric(num_pairs), unit="%", reason=reason))
            continue
        random = np.random.default_rng([resources.seed, num_pairs])
        for _ in range(resources.num_needle_items):
            pairs = random.choice(words, (num_pairs, 2), replace=False)
            key, value = pairs[random.integers(num_pairs)].tolist()
            items.append(
                Item.continuation([resources.tokenizer.eos_id, *pairs.reshape(-1).tolist(), key], [value], TASK)
            )
            sizes.append(num_pairs)
    return Task(items, lambda results: _scores(results, sizes), tuple(skipped))


def _metric(num_pairs: int) -> str:
    return f"accuracy_{num_pairs}_pairs"


def _scores(results: Sequence[ItemResult], sizes: Sequence[int]) -> list[Score]:
    """Return accuracy in percent: over all items, then for each number of pairs."""
    scores = [accuracy_score(TASK, TASK, "accuracy", [result.is_exact for result in results])]
    for size in dict.fromkeys(sizes):
        chosen = [result.is_exact for result, of in zip(results, sizes, strict=True) if of == size]
        note = f"chance {100 / size:.3g} % for a guess among the {size} second words"
        scores.append(accuracy_score(TASK, TASK, _metric(size), chosen, note))
    return scores
