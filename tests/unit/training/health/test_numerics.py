"""Rules over what is read of every layer."""

import math

from sisa_scale.runs.logs.health import HealthRow
from sisa_scale.training.health.numerics import symptoms


def rows(logits: list[list[float]], ratios: list[list[float]] | None = None) -> list[HealthRow]:
    ratios = ratios or [[0.001] * len(logits[0])] * len(logits)
    return [
        HealthRow(step, [1.0] * len(values), [1.0] * len(values), values, ratio)
        for step, (values, ratio) in enumerate(zip(logits, ratios, strict=True), 1)
    ]


def test_logits_that_double_and_are_large_are_named_with_their_layer() -> None:
    (found,) = symptoms(rows([[5, 10], [5, 12], [6, 14], [6, 40]]))
    assert (found.rule, found.layer, found.value) == ("logits-growing", 2, 40)
    assert "layer 2 is 40, after a median of 12" in found.message
    assert "model.qk_norm" in found.message


def test_what_is_large_but_steady_small_but_growing_or_new_is_no_symptom() -> None:
    assert not symptoms(rows([[80.0], [82.0], [81.0], [83.0]]))
    assert not symptoms(rows([[1.0], [2.0], [4.0], [8.0]]))
    assert not symptoms(rows([[1.0], [100.0]]))
    assert not symptoms(rows([[math.nan]] * 6))
    assert not symptoms([])


def test_logits_that_overflow_are_largest() -> None:
    (found,) = symptoms(rows([[5.0, 5.0]] * 4 + [[5.0, math.inf]]))
    assert found.layer == 2


def test_updates_are_large_when_they_stay_so() -> None:
    logits = [[1.0, 1.0]] * 4
    assert not symptoms(rows(logits, [[0.3, 0.3], [0.001, 0.03], [0.001, 0.001], [0.001, 0.03]]))
    (found,) = symptoms(rows(logits, [[0.001, 0.001], [0.001, 0.03], [0.001, 0.05], [0.001, 0.04]]))
    assert (found.rule, found.layer) == ("updates-large", 2)
    assert "4 % of their norm" in found.message
