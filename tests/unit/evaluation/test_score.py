import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sisa_scale.errors import DataError
from sisa_scale.evaluation.score import (
    Score,
    accuracy_score,
    binomial_error,
    mean_score,
    perplexity_score,
    sample_error,
)


def test_binomial_error_away_from_the_ends() -> None:
    assert binomial_error(180, 200) == pytest.approx(math.sqrt(0.9 * 0.1 / 200))


@pytest.mark.parametrize("num_correct", [0, 200])
def test_no_finite_test_is_certain(num_correct: int) -> None:
    fraction = 1 / 202
    assert binomial_error(num_correct, 200) == pytest.approx(math.sqrt(fraction * (1 - fraction) / 200))


@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_binomial_error_is_positive_and_symmetric(case: tuple[int, int]) -> None:
    num_correct, num_items = case
    error = binomial_error(num_correct, num_items)
    assert 0 < error <= 0.5
    assert error == pytest.approx(binomial_error(num_items - num_correct, num_items))


def test_sample_error() -> None:
    assert sample_error([1.0, 2.0, 4.0]) == pytest.approx(np.std([1, 2, 4], ddof=1) / math.sqrt(3))
    assert sample_error([1.0]) is None


def test_accuracy_is_in_percent() -> None:
    score = accuracy_score("t", "v", "accuracy", [True, False, False, False])
    assert (score.value, score.unit, score.num_items) == (25.0, "%", 4)
    assert score.standard_error == pytest.approx(100 * math.sqrt(0.25 * 0.75 / 4))


def test_perplexity_error_is_first_order() -> None:
    score = perplexity_score("t", "v", "perplexity", [1.0, 2.0], unit="per word")
    assert score.value == pytest.approx(math.exp(1.5))
    assert score.standard_error == pytest.approx(math.exp(1.5) * 0.5)


@pytest.mark.parametrize("nats", [[math.nan, 1.0], [math.inf, 1.0]])
def test_json_never_holds_nan(nats: list[float]) -> None:
    score = mean_score("t", "v", "loss", nats, unit="nats/token", note="n")
    assert (score.value, score.standard_error, score.note) == (None, None, "not finite; n")


def test_a_diverged_model_does_not_overflow() -> None:
    assert perplexity_score("t", "v", "p", [1e6, 2e6], unit="per word").value == pytest.approx(math.exp(700))


def test_json_round_trip() -> None:
    score = Score("lambada", "cloze-heldout", "accuracy", 12.5, 1.5, 80, "%", "n")
    assert Score.from_json(score.to_json()) == score


@pytest.mark.parametrize("change", [{"surprise": 1}, {"value": ...}])
def test_wrong_keys_are_refused(change: dict[str, object]) -> None:
    value = Score("t", "v", "m", 1.0, None, 1, "%").to_json() | change
    value = {key: part for key, part in value.items() if part is not ...}
    with pytest.raises(DataError, match=r"evaluations\.jsonl:3"):
        Score.from_json(value, "evaluations.jsonl:3")
