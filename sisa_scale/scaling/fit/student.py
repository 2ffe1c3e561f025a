"""Student's t distribution for whole degrees of freedom: how far an estimate strays whose noise was estimated too."""

from math import atan, cos, pi, sin, sqrt


def within(value: float, degrees: int) -> float:
    """Return P(|t| < value): the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = atan(value / sqrt(degrees)) if degrees > 0 else 0.0
    square = cos(angle) ** 2
    term, total = 1.0, 1.0 if degrees > 1 else 0.0
    for k in range(2 + degrees % 2, degrees - 1, 2):
        term *= square * (k - 1) / k
        total += term
    if degrees % 2 == 0:
        return sin(angle) * total
    return 2 / pi * (angle + sin(angle) * cos(angle) * total)


def quantile(level: float, degrees: int) -> float:
    """Return t with P(|t| < value) = level, by bisection. Raises ValueError without a degree of freedom."""
    if degrees < 1 or not 0 < level < 1:
        raise ValueError(f"level {level}, {degrees} degrees of freedom")
    low, high = 0.0, 1.0
    while within(high, degrees) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, degrees) < level else (low, middle)
    return (low + high) / 2
