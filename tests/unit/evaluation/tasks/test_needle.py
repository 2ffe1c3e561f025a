from collections.abc import Callable

import numpy as np
import pytest

from sisa_scale.data.tokenizer import Tokenizer
from sisa_scale.evaluation.scoring import ItemResult, TokenScores, score_items
from sisa_scale.evaluation.tasks.needle import VALUE_TOKENS, needle_task, single_token_words
from sisa_scale.evaluation.tasks.task import Task

Scorer = Callable[..., TokenScores]


@pytest.fixture
def task(tokenizer: Tokenizer, heldout_sequences: np.ndarray) -> Task:
    return needle_task(tokenizer, heldout_sequences, lengths=(96, 128), num_items=10, sequence_tokens=128, seed=1)


def test_the_pool_is_whole_words(tokenizer: Tokenizer, heldout_sequences: np.ndarray) -> None:
    pool = single_token_words(tokenizer, heldout_sequences.reshape(-1))
    assert len(set(pool)) == len(pool) >= 32
    assert all(tokenizer.encode(tokenizer.decode([token])) == [token] for token in pool)


def test_items_hold_the_needle_once_and_ask_for_its_value(task: Task, tokenizer: Tokenizer) -> None:
    for item, length in zip(task.items, [96] * 10 + [128] * 10, strict=True):
        tokens = list(item.tokens)
        assert len(tokens) == length + VALUE_TOKENS - (VALUE_TOKENS - 1)
        value = tokens[item.score_from + 1 :]
        assert len(set(value)) == VALUE_TOKENS
        answer = tokenizer.decode(value)
        text = tokenizer.decode(tokens)
        query = text[text.rindex(" The secret code of") :]
        assert query.endswith(answer)
        assert text.count(f"{query}.") == 1


def test_depths_are_stratified(task: Task, tokenizer: Tokenizer) -> None:
    opening = tokenizer.encode(" The secret code of")
    starts = []
    for item in task.items[10:]:
        tokens = list(item.tokens)
        starts.append(next(i for i in range(len(tokens)) if tokens[i : i + len(opening)] == opening))
    num_filler = 128 - len(opening) * 2 - 2 * 2 - 2 * len(tokenizer.encode(" is")) - 2 * VALUE_TOKENS - 1 + 1
    shares = [start / (num_filler + 1) for start in starts]
    assert all(index / 10 - 0.02 <= share < (index + 1) / 10 for index, share in enumerate(shares))


def test_induction_solves_it_and_chance_does_not(task: Task, induction: Scorer, uniform: Scorer) -> None:
    solved = task.scores(score_items(task.items, induction, sequence_tokens=128, batch_size=4))
    assert {score.metric: score.value for score in solved} == {
        "exact_match": 100.0,
        "exact_match_96": 100.0,
        "exact_match_128": 100.0,
    }
    assert [score.num_items for score in solved] == [20, 10, 10]
    failed = task.scores(score_items(task.items, uniform, sequence_tokens=128, batch_size=4))
    assert failed[0].value == 0.0
    assert failed[0].standard_error
    assert "chance" in failed[0].note


def test_one_wrong_token_is_a_wrong_item(task: Task) -> None:
    right, wrong = ItemResult(VALUE_TOKENS, -1.0, VALUE_TOKENS), ItemResult(VALUE_TOKENS, -1.0, VALUE_TOKENS - 1)
    overall, short, long = task.scores([right] * 10 + [wrong] * 5 + [right] * 5)
    assert (overall.value, short.value, long.value) == (75.0, 100.0, 50.0)


def test_items_depend_on_the_seed_and_on_nothing_else(tokenizer: Tokenizer, heldout_sequences: np.ndarray) -> None:
    def items(seed: int, lengths: tuple[int, ...]) -> list[list[int]]:
        built = needle_task(tokenizer, heldout_sequences, lengths=lengths, num_items=5, sequence_tokens=128, seed=seed)
        return [list(item.tokens) for item in built.items]

    assert items(1, (96, 128)) == items(1, (96, 128))
    assert items(1, (96, 128))[5:] == items(1, (128,))
    assert items(1, (128,)) != items(2, (128,))


def test_what_does_not_fit_is_skipped_with_the_reason(tokenizer: Tokenizer, heldout_sequences: np.ndarray) -> None:
    task = needle_task(tokenizer, heldout_sequences, lengths=(8, 999), num_items=5, sequence_tokens=128, seed=1)
    short, long = task.scores([])
    assert (short.metric, long.metric) == ("exact_match_8", "exact_match_999")
    assert "filler" in short.note
    assert "sequence_tokens = 128" in long.note
    [score] = needle_task(
        tokenizer, heldout_sequences[:0], lengths=(96,), num_items=5, sequence_tokens=128, seed=1
    ).scores([])
    assert "single-token words" in score.note
