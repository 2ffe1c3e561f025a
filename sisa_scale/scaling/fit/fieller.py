"""Where the vertex of a fitted parabola lies: Fieller's interval (1954)."""

from collections.abc import Sequence

import numpy as np

from sisa_scale.scaling.fit.arrays import Floats


def vertex_interval(slopes: Sequence[float], covariance_22: Floats, reach: float) -> tuple[float, float] | None:
    """Return the ends of all z at which the slope c₁ + 2c₂z may be zero; None where the parabola may be flat.

    slopes: c₁ and c₂; covariance_22: theirs for a noise of 1; reach: Student's t times the noise.
    """
    c1, c2 = slopes
    v = covariance_22 * reach**2
    square, linear, constant = 4 * (c2**2 - v[1, 1]), 4 * (c1 * c2 - v[0, 1]), c1**2 - v[0, 0]
    if square <= 0:
        return None
    half = np.sqrt(max(linear**2 - 4 * square * constant, 0.0))  # of a steep parabola never below 0 but by rounding
    low, high = (-linear - half) / (2 * square), (-linear + half) / (2 * square)
    return float(low), float(high)
