"""Do the intervals of a study hold what they promise? Simulated tuning trials and paired seeds with a planted truth.

rates: sweeps with steps of a factor of two around optima drawn inside them, the loss 2.6 + 0.15 z² + skew z³ over
z = log(rate / optimum), an offset for each seed. How often the 95 % interval holds the optimum (an unknown one holds
everything), its median width as high / low, and how often it is unknown or the optimum at an edge. pairs: two
architectures over six sizes and lengths, whose runs share what a seed's order of data does; how often the intervals of
the mean and of single cells hold the planted effect, and how often 0. docs/studies.md has the tables of
`python tools/study_coverage.py rates|pairs`.
"""

import argparse
import itertools
from dataclasses import replace

import numpy as np

from sisa_scale.errors import ConfigError
from sisa_scale.scaling.comparison.pairs import compare_pairs
from sisa_scale.scaling.learning_rate import find_optimum
from sisa_scale.scaling.table.table import table_of

CURVATURE, OF_SEED = 0.15, 0.03


def rates_row(num_rates: int, num_seeds: int, noise: float, skew: float, worlds: int) -> str:
    """Return a line of the table."""
    rates = 1e-3 * 2.0 ** np.arange(num_rates)
    held, widths, unknown, edge = 0, [], 0, 0
    for world in range(worlds):
        generator = np.random.default_rng([num_rates, num_seeds, round(1e4 * noise), round(1e3 * skew), world])
        best = float(np.exp(generator.uniform(np.log(1.5 * rates[0]), np.log(rates[-1] / 1.5))))
        rate_N, seed_N = np.repeat(rates, num_seeds), np.tile(range(num_seeds), num_rates)
        z = np.log(rate_N / best)
        losses = 2.6 + CURVATURE * z**2 + skew * z**3 + OF_SEED * generator.normal(size=num_seeds)[seed_N]
        losses += noise * generator.normal(size=len(z))
        try:
            found = find_optimum(rate_N.tolist(), losses.tolist(), seed_N.tolist(), "world", "sweep")
        except ConfigError:
            edge += 1
            continue
        unknown += found.interval is None
        held += found.interval is None or found.interval[0] <= best <= found.interval[1]
        if found.interval is not None:
            widths.append(found.interval[1] / found.interval[0])
    share, width = held / (worlds - edge), float(np.median(widths))
    return f"| {num_rates} | {num_seeds} | {noise:g} | {skew:g} | {share:.1%} | {width:.2f} | {unknown} | {edge} |"


def pairs_row(num_seeds: int, effect: float, worlds: int) -> str:
    """Return a line of the table: the standard deviation is 0.02 of a seed's data, 0.005 of a trunk, 0.001 of a run."""
    overall, cells, nulls = [], [], []
    size_C, tokens_C = np.repeat(["s", "m"], 3), np.tile([1e9, 2e9, 4e9], 2)
    for world in range(worlds):
        generator = np.random.default_rng([num_seeds, round(1e4 * abs(effect)), world])
        data_SC = 0.02 * generator.normal(size=(num_seeds, 6))
        losses = []
        for shift in (0.0, effect):
            trunk_SC = np.repeat(0.005 * generator.normal(size=(num_seeds, 2)), 3, axis=1)
            losses.append(3.0 + shift + data_SC + trunk_SC + 0.001 * generator.normal(size=(num_seeds, 6)))
        names, size_N = np.repeat(["a", "b"], 6 * num_seeds), np.tile(size_C, 2 * num_seeds)
        seed_N = np.tile(np.repeat(np.arange(num_seeds), 6), 2).astype(str)
        table = table_of(
            np.full(len(names), 1e7),
            np.tile(tokens_C, 2 * num_seeds),
            np.concatenate([loss.ravel() for loss in losses]),
            architecture=names,
        )
        found = compare_pairs(replace(table, texts={"size": size_N, "seed": seed_N}), "a")
        assert found is not None
        for kind, rows in ((overall, found.overall), (cells, found.cells)):
            kind += [one.interval[0] <= effect <= one.interval[1] for one in rows if one.interval is not None]
        nulls += [bool(one.is_null) for one in found.overall]
    return f"| {num_seeds} | {effect:g} | {np.mean(overall):.1%} | {np.mean(cells):.1%} | {np.mean(nulls):.1%} |"


def main() -> None:
    """Print the lines of a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["rates", "pairs"])
    parser.add_argument("--worlds", type=int, default=400)
    arguments = parser.parse_args()
    if arguments.part == "rates":
        for shape in itertools.product(((4, 1), (4, 3), (5, 1), (5, 3)), (0.005, 0.02), (0.0, 0.03)):
            (num_rates, num_seeds), noise, skew = shape
            print(rates_row(num_rates, num_seeds, noise, skew, arguments.worlds), flush=True)
        return
    for num_seeds, effect in itertools.product((2, 3, 5), (0.0, -0.01, -0.05)):
        print(pairs_row(num_seeds, effect, arguments.worlds), flush=True)


if __name__ == "__main__":
    main()
