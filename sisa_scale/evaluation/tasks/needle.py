"""Task "needle": find a random fact in held-out text, at several lengths and at every depth.

An item of length n is n input tokens: filler, the needle " The secret code of {key} is {value}." somewhere in it,
and at the end the query " The secret code of {key} is". The value's tokens are scored; an item is correct iff all of
them are the argmax.

Keys and values are drawn anew for each item, as token ids, from a pool of single-token words. So a value is
`VALUE_TOKENS` tokens under every tokenizer, and the ids in the needle are exactly those that are asked for.

Filler is a random contiguous stretch of a random held-out sequence. Depths are stratified: item i of m has its
needle at the share (i + u) / m of the filler, u uniform in [0, 1).
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sisa_scale.evaluation.score import Score, accuracy_score, skipped_score
from sisa_scale.evaluation.scoring import Item, ItemResult
from sisa_scale.evaluation.tasks.task import Task, TextTokenizer, skipped_task

if TYPE_CHECKING:
    from sisa_scale.evaluation.suite import EvaluationResources

# Teacher forcing and greedy decoding agree on "all tokens correct". Let v_1..v_k be the value after the query. Both
# see the same context for v_1. If the argmax is v_1, greedy decoding emits v_1, so both see the same context for v_2,
# and so on: by induction greedy decoding emits v_1..v_k iff every v_i is the argmax given the true v_1..v_(i-1).
# Where they differ, after a first mistake, the item is wrong in both. So one forward pass replaces k.

TASK, VARIANT = "needle", "needle-random"
KEY_TOKENS, VALUE_TOKENS = 2, 4
_MIN_POOL, _MAX_POOL = 32, 512
_MIN_FILLER = 8
_WORD = re.compile(r" [A-Za-z]{3,}")


def build(resources: "EvaluationResources", name: str) -> Task:
    """Return the task of a run; without lengths at a quarter, a half and the whole of a pass."""
    whole = resources.sequence_tokens
    return needle_task(
        resources.tokenizer,
        resources.checked_sequences(),
        lengths=resources.needle_lengths or (whole // 4, whole // 2, whole),
        num_items=resources.num_needle_items,
        sequence_tokens=whole,
        seed=resources.seed,
    )


def needle_task(
    tokenizer: TextTokenizer,
    heldout_sequences: np.ndarray,
    *,
    lengths: Sequence[int],
    num_items: int,
    sequence_tokens: int,
    seed: int,
) -> Task:
    """Return the task with `num_items` items at each length in `lengths` (input tokens).

    heldout_sequences: int array (N, L). A length beyond `sequence_tokens`, too short for the needle, or with more
    filler than L is skipped with the reason; so is the whole task when the tokenizer has too few single-token words.
    """
    pool = single_token_words(tokenizer, heldout_sequences.reshape(-1))
    if len(pool) < _MIN_POOL:
        reason = f"the tokenizer has {len(pool)} single-token words in the held-out text; {_MIN_POOL} are needed"
        return skipped_task(skipped_score(TASK, VARIANT, "exact_match", unit="%", reason=reason))
    parts = Sentence(tokenizer)
    items: list[Item] = []
    item_lengths: list[int] = []
    skipped: list[Score] = []
    for length in lengths:
        num_filler = length - parts.num_tokens
        obstacle = _obstacle(length, num_filler, sequence_tokens, heldout_sequences.shape[1])
        if obstacle:
            skipped.append(skipped_score(TASK, VARIANT, f"exact_match_{length}", unit="%", reason=obstacle))
            continue
        # One generator a length: adding a length to the list leaves the items of the others as they were.
        random = np.random.default_rng([seed, length])
        for index in range(num_items):
            sequence = heldout_sequences[random.integers(len(heldout_sequences))]
            start = random.integers(len(sequence) - num_filler + 1)
            filler = sequence[start : start + num_filler].tolist()
            depth = int((index + random.random()) / num_items * (num_filler + 1))
            words = random.choice(pool, KEY_TOKENS + VALUE_TOKENS, replace=False).tolist()
            items.append(parts.item(filler, depth, words[:KEY_TOKENS], words[KEY_TOKENS:]))
            item_lengths.append(length)
    chance = f"chance {100 / len(pool) ** VALUE_TOKENS:.1g} % for a guess among {len(pool)} words x {VALUE_TOKENS}"
    return Task(items, lambda results: _scores(results, item_lengths, chance), tuple(skipped))


def single_token_words(tokenizer: TextTokenizer, heldout_tokens: np.ndarray) -> list[int]:
    """Return up to 512 ids that are " " and three or more ASCII letters and that encode back to themselves.

    The most frequent in the held-out text come first (ties by id): words whose embedding any training has touched.
    """
    counts = np.bincount(heldout_tokens, minlength=tokenizer.vocab_size)[: tokenizer.vocab_size]
    pool: list[int] = []
    for token in np.argsort(-counts, kind="stable").tolist():
        if counts[token] == 0 or len(pool) == _MAX_POOL:
            break
        text = tokenizer.decode([token])
        if _WORD.fullmatch(text) and tokenizer.encode(text) == [token]:
            pool.append(token)
    return pool


class Sentence:
    """The fixed parts of the needle as ids, so that needle and query agree token by token."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.opening = tokenizer.encode(" The secret code of")
        self.link = tokenizer.encode(" is")
        self.end = tokenizer.encode(".")

    @property
    def num_tokens(self) -> int:
        """Input tokens of needle and query; the last token of the answer is a target only."""
        query = len(self.opening) + KEY_TOKENS + len(self.link)
        return 2 * (query + VALUE_TOKENS) + len(self.end) - 1

    def query(self, key: Sequence[int]) -> list[int]:
        """Return the question for the value of a key."""
        return [*self.opening, *key, *self.link]

    def needle(self, key: Sequence[int], value: Sequence[int]) -> list[int]:
        """Return the statement that gives a key its value."""
        return [*self.query(key), *value, *self.end]

    def item(self, filler: list[int], depth: int, key: list[int], value: list[int]) -> Item:
        """Return an item with the needle in the filler at `depth` tokens."""
        context = [*filler[:depth], *self.needle(key, value), *filler[depth:], *self.query(key)]
        return Item.continuation(context, value, TASK)


def _obstacle(length: int, num_filler: int, sequence_tokens: int, num_available: int) -> str | None:
    if length > sequence_tokens:
        return f"{length} tokens do not fit in sequence_tokens = {sequence_tokens}"
    if num_filler < _MIN_FILLER:
        return f"needle and query leave {num_filler} of {length} tokens for filler; {_MIN_FILLER} are needed"
    if num_filler > num_available:
        return f"held-out sequences have {num_available} tokens; {num_filler} of filler are needed"
    return None


def _scores(results: Sequence[ItemResult], lengths: Sequence[int], chance: str) -> list[Score]:
    """Return exact match in percent: over all items, then for each length."""
    exact = np.array([result.is_exact for result in results])
    scores = [accuracy_score(TASK, VARIANT, "exact_match", exact.tolist(), chance)]
    for length in dict.fromkeys(lengths):
        chosen = exact[np.array(lengths) == length].tolist()
        scores.append(accuracy_score(TASK, VARIANT, f"exact_match_{length}", chosen, chance))
    return scores
