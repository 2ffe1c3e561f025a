"""A law that rises is said to rise, by its own variables; one that falls, or wavers within its noise, is not."""

import numpy as np
import pytest

from sisa_scale.scaling.fit.fitting import fit
from sisa_scale.scaling.fit.forms import bind
from sisa_scale.scaling.fit.rises import rises
from sisa_scale.scaling.table.table import RunTable, table_of

PARAMS, TOKENS = (part.ravel() for part in np.meshgrid(np.geomspace(1e7, 1e9, 7), np.geomspace(1e9, 3e10, 6)))
DEPTH = np.tile([6.0, 12.0, 24.0, 9.0, 18.0, 36.0, 12.0], 6)
WIDTH = np.sqrt(PARAMS / (12 * DEPTH))


def table(losses: np.ndarray, noise: float = 0.001) -> RunTable:
    noisy = losses * np.exp(noise * np.random.default_rng(0).normal(size=len(losses)))
    return table_of(PARAMS, TOKENS, noisy, width=WIDTH, depth=DEPTH, tokens_unique=TOKENS / 2)


FALLING = 1.8 + 480 * PARAMS**-0.35 + 2085 * TOKENS**-0.366
SIZES_DIVERGE = 1.8 + 0.02 * (PARAMS / 1e7) ** 0.4 + 2085 * TOKENS**-0.366
DEPTH_HURTS = 1.5 + 40 * WIDTH**-0.7 + 0.05 * DEPTH**0.6 + 2085 * TOKENS**-0.366


@pytest.mark.parametrize(
    "form, losses, variable",
    [
        ("farseer", SIZES_DIVERGE, "parameters"),
        ("gamma", SIZES_DIVERGE, "parameters"),
        ("width-depth", DEPTH_HURTS, "depth"),
        ("compute", 1.8 + 0.02 * (PARAMS * TOKENS / 1e16) ** 0.2, "FLOPs"),
    ],
)
def test_what_rises_is_named(form: str, losses: np.ndarray, variable: str) -> None:
    (notice,) = rises(fit(table(losses), form))
    assert notice.code == "loss-rises"
    assert f"by the fitted form {form} the loss rises with {variable}" in notice.text
    assert rises(fit(table(FALLING), form)) == []


def test_depth_that_does_nothing_does_not_rise() -> None:
    losses = 1.5 + 40 * WIDTH**-0.7 + 2085 * TOKENS**-0.366
    assert rises(fit(table(losses, noise=0.003), "width-depth")) == []


@pytest.mark.parametrize("form", ["chinchilla", "width-depth", "compute", "gamma", "farseer"])
def test_slopes_are_derivatives(form: str) -> None:
    """By finite differences of the variables; centres of shifted tables move, so the law is bound to both at once."""
    step = 1e-5
    scale = {"parameters": "params", "tokens": "tokens", "width": "width", "depth": "depth", "FLOPs": "flops"}
    base = {"params": PARAMS, "tokens": TOKENS, "width": WIDTH, "depth": DEPTH, "flops": 6 * PARAMS * TOKENS}

    def bound(name: str) -> tuple:
        up, down = ({key: v * np.exp(s * step * (key == name)) for key, v in base.items()} for s in (1, -1))
        both = {key: np.concatenate([up[key], down[key], base[key]]) for key in base}
        rows = table_of(both["params"], both["tokens"], np.tile(FALLING, 3), train_flops=both["flops"],
                        width=both["width"], depth=both["depth"])  # fmt: skip
        return bind(form, rows), rows

    for name in bound("params")[0].law.slopes(bound("params")[0].starts(np.tile(FALLING, 3))[:1]):
        law, rows = bound(scale[name])
        theta = law.starts(rows.losses)[:1] + 0.05
        up, down, _ = np.split(law.law.evaluate(theta)[0][0], 3)
        assert law.law.slopes(theta)[name][0, 2 * len(PARAMS) :] == pytest.approx((up - down) / (2 * step), abs=1e-6)
