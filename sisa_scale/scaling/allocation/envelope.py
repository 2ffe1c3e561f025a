"""The lower envelope of all points: runs that no other run beats with as few FLOPs, and the power law through them."""

from dataclasses import dataclass

import numpy as np

from sisa_scale.scaling.fit.arrays import Integers
from sisa_scale.scaling.table.table import RunTable


@dataclass(frozen=True, slots=True)
class Envelope:
    """rows: points of the envelope by FLOPs. params ∝ FLOPs^exponent, None with fewer than three sizes on it."""

    rows: Integers
    exponent: float | None
    factor: float | None


def envelope(table: RunTable) -> Envelope:
    """Return the envelope of a table. With undecayed losses or a coarse grid it is a picture, not an estimate."""
    order = np.lexsort((table.losses, table.flops))
    best = np.minimum.accumulate(table.losses[order])
    is_first = np.concatenate([[True], best[1:] < best[:-1]])
    rows = order[is_first]
    if len(np.unique(table.params[rows])) < 3 or np.ptp(np.log(table.flops[rows])) == 0:
        return Envelope(rows, None, None)
    slope, intercept = np.polyfit(np.log(table.flops[rows]), np.log(table.params[rows]), 1)
    return Envelope(rows, float(slope), float(np.exp(intercept)))
