"""Do intervals and p-values of scaling laws hold what they promise? Simulated worlds of a known law, as tables.

isoflop: for every number of sizes and every relative noise, how often the 95 % interval of the exponent (corrected by
the surface fitted to the same runs) and of the vertices holds the truth, the mean width of the former, and the width
that the spread over worlds asks for. nested: two architectures with one law, whose trunks share an error: how often a
larger law is better by p < 0.05. multipliers: the same worlds, and how often the interval holds 1. exponents: one
architecture of trunks, and how often percentile and BCa intervals, with and without the expansion for few clusters,
hold α and β/(α+β). clusters: the same of a mean of clusters, which is what a fit is to first order. misfit: how often a
law is warned of that is right, and that is wrong. docs/scaling-laws.md has the tables of
`python tools/scaling_coverage.py PART`.
"""

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sisa_scale.scaling.allocation.efficiency import multipliers
from sisa_scale.scaling.allocation.frontier import Cost, allocate, predict
from sisa_scale.scaling.allocation.isoflop import isoflop
from sisa_scale.scaling.comparison.nested_models import MODELS
from sisa_scale.scaling.comparison.sign_flip import flip_p_value
from sisa_scale.scaling.design.ranking import isoflop_design
from sisa_scale.scaling.fit.arrays import Floats
from sisa_scale.scaling.fit.bootstrap import LEVEL, a_of, bca, bootstrap, expanded, jackknife, percentile
from sisa_scale.scaling.fit.fitting import fit
from sisa_scale.scaling.fit.misfit import misfit
from sisa_scale.scaling.fit.objectives import Objective
from sisa_scale.scaling.table.notices import RefusalError
from sisa_scale.scaling.table.table import ONLY, RunTable, table_of

LAW = np.array([477.826, 2143.417, 1.817218, 0.347310, 0.367172])
BUDGETS = np.geomspace(1e18, 1e20, 5)
SPREAD = 4.0  # sizes reach from a quarter to four times the best one
TRUNK_TOKENS = np.array([2e9, 4e9, 8e9, 16e9])  # of the points of a trunk
NUM_RESAMPLES = 400


def isoflop_worlds(num_sizes: int, noise: float, worlds: int) -> Iterator[RunTable]:
    """Yield tables of five budgets with independent noise, of which no other cell of the table has any."""
    design = isoflop_design(BUDGETS, num_sizes, SPREAD, LAW)
    losses = predict(LAW, design.params, design.tokens)
    for seed in range(worlds):
        errors = noise * np.random.default_rng([num_sizes, round(1e4 * noise), seed]).normal(size=len(losses))
        yield table_of(design.params, design.tokens, losses * np.exp(errors))


def trunk_worlds(num_trunks: int, of_trunk: float, of_run: float, worlds: int) -> Iterator[RunTable]:
    """Yield tables of two architectures with one law: a trunk of each size, its points with an error in common."""
    params = np.repeat(np.tile(np.geomspace(2e7, 5e8, num_trunks), 2), len(TRUNK_TOKENS))
    tokens = np.tile(TRUNK_TOKENS, 2 * num_trunks)
    trunk = np.repeat(np.arange(2 * num_trunks), len(TRUNK_TOKENS))
    for seed in range(worlds):
        generator = np.random.default_rng(seed)
        errors = of_trunk * generator.normal(size=2 * num_trunks)[trunk] + of_run * generator.normal(size=len(trunk))
        losses = predict(LAW, params, tokens) * np.exp(errors)
        yield table_of(params, tokens, losses, architecture=np.where(trunk < num_trunks, "t", "s"), cluster=trunk)


def isoflop_row(num_sizes: int, noise: float, worlds: int) -> str:
    """Return a line of the table."""
    exponent = LAW[4] / (LAW[3] + LAW[4])
    holds, vertices, found, refused = [], [], [], 0
    start: Floats | None = None
    for table in isoflop_worlds(num_sizes, noise, worlds):
        try:
            surface = fit(table, starts_BP=start)
            result = isoflop(table, law_5=surface.laws_K5[0])
        except RefusalError:
            refused += 1
            continue
        start = surface.theta_P[None]  # all worlds have one design, so that one start does for the next
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


def nested_row(num_trunks: int, of_trunk: float, of_run: float, worlds: int) -> str:
    """Return a line of the table."""
    rejected = dict.fromkeys(MODELS[1:], 0)
    starts: dict[str, Floats] = {}
    for table in trunk_worlds(num_trunks, of_trunk, of_run, worlds):
        pooled = replace(table, architecture_N=np.full(len(table), ONLY))
        for smaller, larger in itertools.pairwise(MODELS):
            subject = pooled if smaller == "chinchilla" else table
            result = fit(subject, smaller, Objective("squares"), starts_BP=starts.get(smaller))
            starts[smaller] = result.theta_P[None]
            p_value = flip_p_value(result, larger, table)
            rejected[larger] += p_value is not None and p_value < 0.05
    shares = " | ".join(f"{count / worlds:.1%}" for count in rejected.values())
    return f"| {num_trunks} | {of_trunk:.1%} | {of_run:.1%} | {shares} |"


def multiplier_row(num_trunks: int, of_trunk: float, of_run: float, worlds: int) -> str:
    """Return a line of the table."""
    holds, widths, refused = [], [], 0
    start: Floats | None = None
    for seed, table in enumerate(trunk_worlds(num_trunks, of_trunk, of_run, worlds)):
        result = fit(table, "shared", starts_BP=start)
        start = result.theta_P[None]
        try:
            draws = bootstrap(result, NUM_RESAMPLES, seed)
        except RefusalError:
            refused += 1
            continue
        (row,) = multipliers(result, draws, "t", np.array([3.2]), ["flops"])
        if row.interval is None:
            refused += 1
            continue
        holds.append(row.interval[0] <= 1 <= row.interval[1])
        widths.append(row.interval[1] / row.interval[0])
    return (
        f"| {num_trunks} | {of_trunk:.1%} | {of_run:.1%} | {np.mean(holds):.1%} | {np.mean(widths):.2f} | {refused} |"
    )


def exponent_row(num_trunks: int, of_trunk: float, of_run: float, worlds: int) -> str:
    """Return a line of the table."""
    holds: list[list[bool]] = []
    refused, start = 0, None
    for seed, both in enumerate(trunk_worlds(num_trunks, of_trunk, of_run, worlds)):
        table = both.select(both.architecture_N == "t")
        result = fit(table, starts_BP=start)
        start = result.theta_P[None]
        try:
            draws, others = bootstrap(result, NUM_RESAMPLES, seed), jackknife(result)
        except RefusalError:
            refused += 1
            continue
        assert draws.laws_BK5 is not None and others.laws_BK5 is not None
        laws, without, wide = draws.laws_BK5[:, 0], others.laws_BK5[:, 0], expanded(LEVEL, num_trunks)
        row = []
        for truth, of in ((LAW[3], lambda x: x[..., 3]), (a_of(LAW), a_of)):
            point = float(of(result.laws_K5[0]))
            for interval in (
                percentile(of(laws)),
                percentile(of(laws), LEVEL, wide),
                bca(of(laws), point, of(without)),
                bca(of(laws), point, of(without), LEVEL, wide),
            ):
                row.append(interval is None or interval[0] <= truth <= interval[1])
        holds.append(row)
    shares = " | ".join(f"{share:.1%}" for share in np.mean(holds, axis=0))
    return f"| {num_trunks} | {of_trunk:.1%} | {of_run:.1%} | {shares} | {refused} |"


def cluster_row(num_clusters: int, worlds: int) -> str:
    """Return a line of the table: intervals of a mean of clusters with normal errors."""
    generator = np.random.default_rng(num_clusters)
    holds, wide = [], expanded(LEVEL, num_clusters)
    for _ in range(worlds):
        value_C = generator.normal(size=num_clusters)
        count_BC = generator.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=NUM_RESAMPLES)
        drawn_B, mean = count_BC @ value_C / num_clusters, float(value_C.mean())
        without_C = (value_C.sum() - value_C) / (num_clusters - 1)
        found = (
            percentile(drawn_B),
            percentile(drawn_B, LEVEL, wide),
            bca(drawn_B, mean, without_C),
            bca(drawn_B, mean, without_C, LEVEL, wide),
        )
        holds.append([interval is not None and interval[0] <= 0 <= interval[1] for interval in found])
    shares = " | ".join(f"{share:.1%}" for share in np.mean(holds, axis=0))
    return f"| {num_clusters} | {shares} |"


def misfit_row(truth: str, num_trunks: int, of_trunk: float, of_run: float, worlds: int) -> str:
    """Return a line of the table: Chinchilla's form fitted to the truth, independent runs where there are no trunks."""
    warned, start = 0, None
    for both in trunk_worlds(num_trunks, of_trunk, of_run, worlds) if num_trunks else isoflop_worlds(5, of_run, worlds):
        table = both.select(both.architecture_N == both.architecture_N[0])
        table = replace(table, losses=table.losses * np.exp(departure(truth, table)))
        result = fit(table, starts_BP=start)
        start = result.theta_P[None]
        warned += bool(misfit(result))
    runs = f"{num_trunks} trunks of {len(TRUNK_TOKENS)}" if num_trunks else f"{len(table)} runs"
    return f"| {truth} | {runs} | {of_trunk:.1%} | {of_run:.1%} | {warned / worlds:.1%} |"


def departure(truth: str, table: RunTable) -> Floats:
    """Return what a truth adds to the log loss of LAW at every point."""
    log_ratio, log_params = np.log(table.tokens / table.params / 20), np.log(table.params / table.params.min())
    return {
        "the form": np.zeros(len(table)),
        "overtrained runs 1 % worse at 10x": 0.01 * np.maximum(log_ratio / np.log(10), 0.0) ** 2,
        "large runs badly tuned, 1 % at 10x": 0.01 * (log_params / np.log(10)) ** 2,
    }[truth]


TRUTHS = ("the form", "overtrained runs 1 % worse at 10x", "large runs badly tuned, 1 % at 10x")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["isoflop", "nested", "multipliers", "exponents", "clusters", "misfit"])
    parser.add_argument("--worlds", type=int, default=200)
    arguments = parser.parse_args()
    if arguments.part == "isoflop":
        print("| sizes | noise | exponent | vertices | mean width | width of the spread | refused |")
        print("|---|---|---|---|---|---|---|")
        for num_sizes in (4, 5, 7):
            for noise in (0.001, 0.003, 0.01):
                print(isoflop_row(num_sizes, noise, arguments.worlds), flush=True)
        return
    if arguments.part == "misfit":
        print("| truth | runs | noise of trunks | of runs | warned |")
        print("|---|---|---|---|---|")
        for truth in TRUTHS:
            for trunks, of_trunk, of_run in ((0, 0, 0.001), (0, 0, 0.003), (8, 0.004, 0.001), (16, 0.004, 0.001)):
                print(misfit_row(truth, trunks, of_trunk, of_run, arguments.worlds), flush=True)
        return
    if arguments.part == "clusters":
        print("| clusters | percentile | expanded | BCa | expanded |")
        print("|---|---|---|---|---|")
        for num_clusters in (4, 5, 8, 16, 32):
            print(cluster_row(num_clusters, arguments.worlds), flush=True)
        return
    if arguments.part == "exponents":
        print("| trunks | noise of trunks | of runs | α: percentile | expanded | BCa | expanded "
              "| a: percentile | expanded | BCa | expanded | refused |")  # fmt: skip
        print("|---|---|---|---|---|---|---|---|---|---|---|---|")
        for num_trunks, of_trunk in ((5, 0.004), (8, 0.004), (16, 0.004), (8, 0.001)):
            print(exponent_row(num_trunks, of_trunk, 0.001, arguments.worlds), flush=True)
        return
    head = " | ".join(MODELS[1:]) if arguments.part == "nested" else "holds 1 | mean high / low | no interval"
    print(f"| trunks each | noise of trunks | of runs | {head} |")
    print("|---|---|---|---|---|---|")
    row = nested_row if arguments.part == "nested" else multiplier_row
    for num_trunks, of_trunk, of_run in ((4, 0.004, 0.001), (5, 0.004, 0.001), (8, 0.004, 0.001), (8, 0.001, 0.003)):
        print(row(num_trunks, of_trunk, of_run, arguments.worlds), flush=True)


if __name__ == "__main__":
    main()
