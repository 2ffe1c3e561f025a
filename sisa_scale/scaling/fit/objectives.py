"""What a fit minimises: a sum over points of a loss of the residual.

Residuals are log predicted − log measured loss, or predicted − measured loss for the objectives named `raw`.
The sum is not divided by the number of points.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sisa_scale.scaling.fit.arrays import Floats, floats
from sisa_scale.scaling.table.notices import refusal

Kind = Literal["huber", "lad", "squares"]


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss of residuals: Huber with threshold `delta`, |r| (lad), or r²/2 (squares); on log loss or raw loss."""

    kind: Kind = "huber"
    delta: float = 1e-3
    is_log: bool = True

    @property
    def name(self) -> str:
        """The name under which `parse_objective` knows it."""
        base = {"huber": f"huber:{self.delta:g}", "lad": "lad", "squares": "mse"}[self.kind]
        return f"log-{base}" if self.is_log and self.kind == "squares" else base if self.is_log else f"raw-{base}"

    @property
    def threshold(self) -> float:
        """Residuals beyond it count linearly."""
        return {"huber": self.delta, "lad": 0.0, "squares": np.inf}[self.kind]

    def cost(self, residual_BN: Floats, weight_BN: Floats) -> Floats:
        """Return the weighted sum for every row."""
        return cost(residual_BN, weight_BN, self.threshold)


def cost(residual_BN: Floats, weight_BN: Floats, threshold: float) -> Floats:
    """Return Σ w·huber(r) for every row; a threshold of 0 means Σ w·|r|."""
    size = np.abs(residual_BN)
    if threshold == 0:
        return floats((weight_BN * size).sum(-1))
    inner = np.minimum(size, threshold)
    return floats((weight_BN * inner * (size - 0.5 * inner)).sum(-1))


def parse_objective(text: str) -> Objective:
    """Read `huber[:delta]`, `lad`, `log-mse`, `raw-huber[:delta]` or `raw-mse`."""
    name, _, value = text.strip().lower().partition(":")
    try:
        delta = float(value) if value else 1e-3
        known = {
            "huber": Objective("huber", delta),
            "lad": Objective("lad"),
            "log-mse": Objective("squares"),
            "raw-huber": Objective("huber", delta, is_log=False),
            "raw-mse": Objective("squares", is_log=False),
        }
        if not (delta > 0 and np.isfinite(delta)) or (value and "huber" not in name):
            raise ValueError
        return known[name]
    except (KeyError, ValueError):
        raise refusal(
            "bad-request",
            "--objective",
            found=repr(text),
            allowed="huber[:delta], lad, log-mse, raw-huber[:delta] or raw-mse with a positive delta",
            remedy="The usual choice is huber:1e-3.",
        ) from None
