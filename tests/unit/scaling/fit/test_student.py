"""Student's t against SciPy."""

import pytest
from scipy.stats import t

from sisa_scale.scaling.fit.student import quantile, within


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 31, 240])
def test_against_scipy(degrees: int) -> None:
    for value in (0.3, 1.0, 2.5, 9.0):
        assert within(value, degrees) == pytest.approx(1 - 2 * t.sf(value, degrees), rel=1e-10)
    for level in (0.5, 0.9, 0.95, 0.999):
        assert quantile(level, degrees) == pytest.approx(t.ppf((1 + level) / 2, degrees), rel=1e-9)


@pytest.mark.parametrize(("level", "degrees"), [(0.95, 0), (1.0, 3), (0.0, 3)])
def test_what_has_no_quantile(level: float, degrees: int) -> None:
    with pytest.raises(ValueError, match="degrees of freedom"):
        quantile(level, degrees)
