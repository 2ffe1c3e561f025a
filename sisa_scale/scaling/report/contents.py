"""Everything the report says about a table, computed once and drawn later."""

from dataclasses import dataclass, replace

import numpy as np

from sisa_scale.scaling.allocation.envelope import Envelope, envelope
from sisa_scale.scaling.allocation.frontier import Cost, costs_of
from sisa_scale.scaling.allocation.isoflop import Isoflop, isoflop
from sisa_scale.scaling.analysis import Analysis, analyse, disagreement
from sisa_scale.scaling.comparison.compare import MIN_RUNS_FOR_SEPARATE, Comparison, compare
from sisa_scale.scaling.fit.arrays import Floats, floats
from sisa_scale.scaling.fit.bootstrap import LEVEL, NUM_RESAMPLES, Draws, a_of
from sisa_scale.scaling.fit.fitting import Fit
from sisa_scale.scaling.fit.objectives import parse_objective
from sisa_scale.scaling.table.identifiability import Identifiability
from sisa_scale.scaling.table.notices import Notice, RefusalError
from sisa_scale.scaling.table.table import RunTable


@dataclass(frozen=True, slots=True)
class Subject:
    """One architecture. law_5 and laws_B5 come from the main fit; own: a fit to its rows alone, if they are enough."""

    name: str
    index: int
    table: RunTable
    cost: Cost
    envelope: Envelope
    isoflop: Isoflop | None
    law_5: Floats | None
    laws_B5: Floats | None
    own: Analysis | None


@dataclass(frozen=True, slots=True)
class Study:
    """A table with its main fit (None with the reason where it was refused) and the comparison of architectures."""

    table: RunTable
    subjects: tuple[Subject, ...]
    fit: Fit | None
    identifiability: Identifiability | None
    draws: Draws | None
    comparison: Comparison | None
    refused: RefusalError | None
    notices: tuple[Notice, ...]
    level: float

    def interval(self, values_B: Floats) -> list[float] | None:
        """Return the interval of a number that every resample of the main fit has."""
        return None if self.draws is None else self.draws.interval(values_B, self.level)


@dataclass(frozen=True, slots=True)
class Estimate:
    """One line of the forest: a quantity of an architecture by a method."""

    quantity: str
    architecture: str
    method: str
    value: float
    interval: list[float] | None


def examine_table(
    table: RunTable,
    objective: str = "huber:1e-3",
    *,
    reference: str | None = None,
    losses: Floats | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Study:
    """Fit one architecture by Chinchilla's form, several by shared exponents; keep a refusal as the answer."""
    notices, refused = list(table.notices), None
    main: Fit | None = None
    identifiability, draws, comparison = None, None, None
    try:
        if len(table.architectures) == 1:
            found = analyse(table, "chinchilla", objective, num_resamples=num_resamples, seed=seed)
            main, identifiability, draws = found.fit, found.identifiability, found.draws
            notices += found.notices
        else:
            comparison = compare(
                table,
                reference or table.architectures[0],
                objective=parse_objective(objective),
                losses=losses,
                num_resamples=num_resamples,
                seed=seed,
                level=level,
            )
            main, identifiability, draws = comparison.fit, comparison.identifiability, comparison.draws
            notices += comparison.notices
    except RefusalError as error:
        refused = error
    costs, warned = costs_of(table)
    notices += warned
    subjects = []
    for k, name in enumerate(table.architectures):
        rows = table.select(table.architecture_N == name)
        own = None
        if main is not None and (len(table.architectures) == 1 or len(rows) >= MIN_RUNS_FOR_SEPARATE):
            own = _own(rows, objective, num_resamples, seed)
        law = None if main is None else floats(main.laws_K5[k])
        drawn = None
        if draws is not None and draws.laws_BK5 is not None:
            drawn = floats(draws.laws_BK5[:, k])
        parabolas = _isoflop(rows, law, level)
        if parabolas is not None:
            notices += parabolas.notices
            if own is not None and (gap := disagreement(parabolas, own.fit)) is not None:
                notices.append(Notice(gap.code, f"{name}: {gap.text}" if len(costs) > 1 else gap.text))
        subjects.append(Subject(name, k, rows, costs[name], envelope(rows), parabolas, law, drawn, own))
    unique = tuple(dict.fromkeys(notices))
    return Study(table, tuple(subjects), main, identifiability, draws, comparison, refused, unique, level)


def estimates(study: Study) -> list[Estimate]:
    """Return a, α, β and E of every architecture by every method that the table carries."""
    found = []
    for subject in study.subjects:
        if subject.envelope.exponent is not None:
            found.append(Estimate("a", subject.name, "envelope (A1)", subject.envelope.exponent, None))
        if subject.isoflop is not None:
            parabolas = subject.isoflop
            if parabolas.exponent is not None:
                found.append(Estimate("a", subject.name, "isoFLOP (A2)", parabolas.exponent, parabolas.interval))
            if parabolas.corrected_exponent is not None:
                corrected = (parabolas.corrected_exponent, parabolas.corrected_interval)
                found.append(Estimate("a", subject.name, "isoFLOP, corrected", *corrected))
        if subject.law_5 is not None and subject.laws_B5 is not None and study.draws is not None:
            method = "surface (A3)" if len(study.subjects) == 1 else "surface, shared exponents"
            found += _of_law(subject.name, method, subject.law_5, subject.laws_B5, study.draws, study.level)
        if len(study.subjects) > 1 and subject.own is not None and subject.own.draws is not None:
            draws = subject.own.draws
            assert draws.laws_BK5 is not None
            laws_B5, law_5 = floats(draws.laws_BK5[:, 0]), subject.own.fit.laws_K5[0]
            found += _of_law(subject.name, "surface (A3), own rows", law_5, laws_B5, draws, study.level)
    return found


def _of_law(name: str, method: str, law_5: Floats, laws_B5: Floats, draws: Draws, level: float) -> list[Estimate]:
    found = [Estimate("a", name, method, float(a_of(law_5)), draws.interval(a_of(laws_B5), level))]
    for quantity, i in (("α", 3), ("β", 4), ("E", 2)):
        found.append(Estimate(quantity, name, method, float(law_5[i]), draws.interval(laws_B5[:, i], level)))
    return found


def _own(rows: RunTable, objective: str, num_resamples: int, seed: int) -> Analysis | None:
    try:
        return analyse(replace(rows, notices=()), "chinchilla", objective, num_resamples=num_resamples, seed=seed)
    except RefusalError:
        return None


def _isoflop(rows: RunTable, law: Floats | None, level: float) -> Isoflop | None:
    try:
        return isoflop(rows, "params", law, level=level)
    except RefusalError:
        return None


def compute_grid(table: RunTable, beyond: float = 10.0, count: int = 40) -> Floats:
    """Return budgets from the least to `beyond` times the greatest FLOPs."""
    return np.geomspace(float(table.flops.min()), beyond * float(table.flops.max()), count)
