"""Planted laws and tables for the tests of scaling."""

from pathlib import Path

import numpy as np

from sisa_scale.scaling.allocation.frontier import predict
from sisa_scale.scaling.design.ranking import isoflop_design
from sisa_scale.scaling.table.table import RunTable, table_of

GOLDEN = Path(__file__).parent / "golden" / "scaling"
LAW = np.array([482.01, 2085.43, 1.8172, 0.3478, 0.3658])


def planted(noise: float = 0.0, seed: int = 0, law: np.ndarray = LAW, spread: float = 4.0) -> RunTable:
    """25 isoFLOP runs of a known law."""
    design = isoflop_design(np.geomspace(1e18, 1e20, 5), 5, spread, law)
    generator = np.random.default_rng(seed)
    losses = predict(law, design.params, design.tokens) * np.exp(noise * generator.normal(size=len(design.params)))
    return table_of(design.params, design.tokens, losses)


def planted_pair(rho_n: float, rho_d: float, noise: float = 0.0, seed: int = 0, **columns: object) -> RunTable:
    """The same grid for `base` and for `better`, whose parameters and tokens count rho times."""
    design = isoflop_design(np.geomspace(1e18, 1e20, 5), 5, 4.0, LAW)
    generator = np.random.default_rng(seed)
    losses = [predict(LAW, design.params, design.tokens), predict(LAW, rho_n * design.params, rho_d * design.tokens)]
    noisy = np.concatenate(losses) * np.exp(noise * generator.normal(size=50))
    params, tokens = np.tile(design.params, 2), np.tile(design.tokens, 2)
    names = ["base"] * 25 + ["better"] * 25
    return table_of(params, tokens, noisy, architecture=names, train_flops=6 * params * tokens, **columns)


def write_csv(path: Path, table: RunTable, **columns: object) -> Path:
    """Write the three needed columns and others."""
    names = ["params_scaling", "tokens", "loss", *columns]
    lines = [",".join(names)]
    extra = [np.broadcast_to(np.asarray(values, dtype=object), len(table)) for values in columns.values()]
    for i in range(len(table)):
        cells = [repr(float(column[i])) for column in (table.params, table.tokens, table.losses)]
        lines.append(",".join([*cells, *(str(values[i]) for values in extra)]))
    path.write_text("\n".join(lines) + "\n")
    return path
