"""Rules over what is read of every layer: signs of a divergence that come before the loss rises."""

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from sisa_scale.runs.logs.health import HealthRow

REMEMBERED = 20  # readings that are compared
_LEAST_READINGS = 4
_LARGE_LOGIT, _GROWTH = 30.0, 2.0
_LARGE_UPDATE, _LARGE_IN_A_ROW = 0.02, 3


class Symptom(NamedTuple):
    """rule: its name; layer: from 1; value: what was read; message: it in words."""

    rule: str
    layer: int
    value: float
    message: str


def symptoms(rows: Sequence[HealthRow]) -> list[Symptom]:
    """Return what the newest reading shows beside those before it, the oldest first."""
    return [found for rule in (_logits_growing, _updates_large) if (found := rule(rows)) is not None]


def _logits_growing(rows: Sequence[HealthRow]) -> Symptom | None:
    """A largest logit above 30 that has doubled against the median of the readings before, in the layer that has most.

    Attention is all but a choice of one key by then, and its gradient vanishes; what grows on diverges.
    """
    if len(rows) < _LEAST_READINGS:
        return None
    layer, value = _largest(rows[-1].largest_logit)
    before = [row.largest_logit[layer] for row in rows[:-1] if math.isfinite(row.largest_logit[layer])]
    if not before or not (value > _LARGE_LOGIT and value > _GROWTH * median(before)):
        return None
    message = f"the largest attention logit of layer {layer + 1} is {value:.3g}, after a median of {median(before):.3g}"
    remedy = "lower optimizer.learning_rate, or train with model.qk_norm (and model.sisa.normalize_importance)"
    return Symptom("logits-growing", layer + 1, value, f"{message}: {remedy}")


def _updates_large(rows: Sequence[HealthRow]) -> Symptom | None:
    """Steps that move a layer's weights by more than 2 % of their norm, in three readings in a row."""
    recent = rows[-_LARGE_IN_A_ROW:]
    if len(recent) < _LARGE_IN_A_ROW:
        return None
    layer, value = _largest(rows[-1].update_ratio)
    if not all(row.update_ratio and row.update_ratio[layer] > _LARGE_UPDATE for row in recent):
        return None
    message = f"a step moves the weights of layer {layer + 1} by {100 * value:.2g} % of their norm"
    return Symptom(
        "updates-large", layer + 1, value, f"{message}: lower optimizer.learning_rate or lengthen the warmup"
    )


def _largest(values: Sequence[float]) -> tuple[int, float]:
    """Return the layer with the largest value and the value; what is not finite but NaN is largest."""
    known = [(value, layer) for layer, value in enumerate(values) if not math.isnan(value)]
    value, layer = max(known, default=(0.0, 0))
    return layer, value
