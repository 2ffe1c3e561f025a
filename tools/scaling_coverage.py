"""Do the intervals of isoFLOP parabolas hold what they promise? Simulated worlds of a known law, as a table.

For every number of sizes and every relative noise: how often the 95 % interval of the exponent (corrected by the
surface fitted to the same runs) and of the vertices holds the truth, the mean width of the former, and the width that
the spread over worlds asks for. docs/scaling-laws.md has the table of `python tools/scaling_coverage.py`.
"""

import argparse
from collections.abc import Iterator

import numpy as np

from sisa_scale.scaling.allocation.frontier import Cost, allocate, predict
from sisa_scale.scaling.allocation.isoflop import isoflop
from sisa_scale.scaling.design.ranking import isoflop_design
from sisa_scale.scaling.fit.fitting import fit
from sisa_scale.scaling.table.notices import RefusalError
from sisa_scale.scaling.table.table import RunTable, table_of

LAW = np.array([477.826, 2143.417, 1.817218, 0.347310, 0.367172])
BUDGETS = np.geomspace(1e18, 1e20, 5)
SPREAD = 4.0  # sizes reach from a quarter to four times the best one


def isoflop_worlds(num_sizes: int, noise: float, worlds: int) -> Iterator[RunTable]:
    """Yield tables of five budgets with independent noise, one for each seed."""
    design = isoflop_design(BUDGETS, num_sizes, SPREAD, LAW)
    losses = predict(LAW, design.params, design.tokens)
    for seed in range(worlds):
        errors = noise * np.random.default_rng(seed).normal(size=len(losses))
        yield table_of(design.params, design.tokens, losses * np.exp(errors))


def isoflop_row(num_sizes: int, noise: float, worlds: int) -> str:
    """Return a line of the table."""
    exponent = LAW[4] / (LAW[3] + LAW[4])
    holds, vertices, found, refused = [], [], [], 0
    for table in isoflop_worlds(num_sizes, noise, worlds):
        try:
            result = isoflop(table, law_5=fit(table).laws_K5[0])
        except RefusalError:
            refused += 1
            continue
        assert result.corrected_interval is not None
        low, high = result.corrected_interval
        holds.append(low <= exponent <= high)
        found.append((result.corrected_exponent, high - low))
        for budget in result.budgets:
            assert budget.vertex_interval is not None
            low, high = budget.vertex_interval
            vertices.append(low <= allocate(LAW, budget.flops, Cost()).params <= high)
    values, widths = np.array(found, dtype=float).T
    return (
        f"| {num_sizes} | {noise:.1%} | {np.mean(holds):.1%} | {np.mean(vertices):.1%} | {np.mean(widths):.4f} "
        f"| {2 * 1.96 * np.std(values):.4f} | {refused} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=200)
    worlds = parser.parse_args().worlds
    print("| sizes | noise | exponent | vertices | mean width | width of the spread | refused |")
    print("|---|---|---|---|---|---|---|")
    for num_sizes in (4, 5, 7):
        for noise in (0.001, 0.003, 0.01):
            print(isoflop_row(num_sizes, noise, worlds), flush=True)


if __name__ == "__main__":
    main()
