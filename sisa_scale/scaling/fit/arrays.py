"""Array types of this room.

Shape suffixes: B start or resample, P parameter of the solver, Q parameter as it is published, N point (run),
K architecture.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]
Texts = npt.NDArray[np.str_]


def floats(values: Any) -> Floats:
    """Return an array of float64."""
    return np.asarray(values, dtype=np.float64)
