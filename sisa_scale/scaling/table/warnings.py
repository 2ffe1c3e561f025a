"""What looks wrong in a table and may be right: warnings with a code, each beside what was found."""

from collections.abc import Iterator

import numpy as np

from sisa_scale.scaling.fit.arrays import Booleans, Integers
from sisa_scale.scaling.table.notices import Notice, refusal
from sisa_scale.scaling.table.table import RunTable

_TPP_UNUSUAL = (0.2, 5e3)
_FLOPS_FACTOR_UNUSUAL = (3.0, 20.0)
_MAX_EPOCHS, _MAX_EMBEDDING = 4.0, 0.3
_MAX_RISE = 0.02  # relative; none of the 245 Chinchilla runs rises by more than 1.1 %
_EVEN_STEPS, _MANY_STEPS, _SAME_STEP = 4, 10, 0.02
_MOST_SHOWN = 3
_TRUE, _FALSE = {"1", "true", "yes", "y", "t", "1.0"}, {"0", "false", "no", "n", "f", "0.0"}


def suspect_units(table: RunTable, is_bits_per_byte: bool) -> Iterator[Notice]:
    """Warn of numbers that are possible and unusual."""
    ratio = table.tokens / table.params
    low, high = _TPP_UNUSUAL
    if (ratio.max() > high) or (ratio.min() < low):
        yield Notice("params-unit-suspect", f"{ratio.min():.3g} to {ratio.max():.3g} tokens per parameter")
    if table.train_flops is not None:
        factor = float(np.median(table.train_flops / (table.params * table.tokens)))
        if not _FLOPS_FACTOR_UNUSUAL[0] < factor < _FLOPS_FACTOR_UNUSUAL[1]:
            yield Notice("flops-suspect", f"train_flops is {factor:.3g} x params_scaling x tokens in the median")
    if not is_bits_per_byte and table.params.min() > 5e6:
        usual = 1.8172 + 482.01 * table.params**-0.3478 + 2085.43 * table.tokens**-0.3658
        excess = float(np.median(table.losses / usual))
        if not 0.6 < excess < 1.3:
            hint = "bits per token are 1.44 times nats" if excess > 1 else "bits per byte are about 0.35 times nats"
            text = f"losses are {excess:.2f} times what English text gives at these sizes; {hint}. Check the unit"
            yield Notice("loss-unit-suspect", text)


def suspect_rows(table: RunTable) -> Iterator[Notice]:
    """Warn of repeated rows, repeated data and embeddings that outweigh the rest."""
    rows = np.stack([table.params, table.tokens, table.losses])
    _, inverse, counts = np.unique(rows, axis=1, return_inverse=True, return_counts=True)
    same_name = table.texts.get("architecture")
    if (counts > 1).any() and (same_name is None or len(set(same_name.tolist())) == 1):
        first = int(np.flatnonzero(counts[inverse.ravel()] > 1)[0])
        text = f"{int((counts - 1).sum())} rows repeat another; the first such row is line {table.lines[first]}"
        yield Notice("duplicated-rows", text)
    epochs = table.numbers.get("epochs")
    if (unique := table.numbers.get("tokens_unique")) is not None:
        epochs = table.tokens / unique
    if epochs is not None and epochs.max() > _MAX_EPOCHS:
        yield Notice("repeated-data", f"up to {epochs.max():.3g} epochs; the form data-constrained discounts them")
    share = None
    total = table.numbers.get("params_total")
    if total is not None and (part := table.numbers.get("params_nonembedding")) is not None:
        share = 1 - part / total
    elif total is not None and (part := table.numbers.get("params_embedding")) is not None:
        share = part / total
    if share is not None and share.max() > _MAX_EMBEDDING:
        yield Notice("embedding-heavy", f"up to {share.max():.0%} of the parameters are embeddings")


def suspect_trajectories(table: RunTable) -> Iterator[Notice]:
    """Warn of points that look like one run read at many steps, in a table that does not name its runs."""
    owner_N = trajectories(table)
    for number in range(int(owner_N.max()) + 1)[:_MOST_SHOWN]:
        rows = np.flatnonzero(owner_N == number)
        text = (
            f"{len(rows)} points at {table.params[rows[0]]:.4g} parameters (lines {table.lines[rows].min()} to "
            f"{table.lines[rows].max()}) look like one run read at many steps: they count as one cluster, and losses "
            "before the end of a run are higher than those of runs of that length. Keep the last row of every run; "
            "if they are separate runs, name them in a column run_id"
        )
        yield Notice("one-trajectory", text)
    if (more := int(owner_N.max()) + 1 - _MOST_SHOWN) > 0:
        yield Notice("one-trajectory", f"{more} more sizes look like one run each")


def trajectories(table: RunTable) -> Integers:
    """Return the number of the trajectory that a point seems to belong to [N], -1 for none.

    A trajectory has the points of one size and architecture: five or more at even steps of tokens, or ten or more
    different token counts. None where a column names runs, trunks or budgets.
    """
    owner_N = np.full(len(table), -1)
    if {"run_id", "trunk_id"} & set(table.texts) or "budget" in table.numbers:
        return owner_N
    for name in table.architectures:
        for size in np.unique(table.params[table.architecture_N == name]):
            rows = np.flatnonzero((table.architecture_N == name) & (table.params == size))
            steps = np.diff(np.unique(table.tokens[rows]))
            is_even = len(steps) >= _EVEN_STEPS and np.ptp(steps) <= _SAME_STEP * steps.mean()
            if is_even or len(steps) + 1 >= _MANY_STEPS:
                owner_N[rows] = owner_N.max() + 1
    return owner_N


def suspect_losses(table: RunTable) -> Iterator[Notice]:
    """Warn of runs that ended above one with fewer parameters or tokens, and no more of either: they diverged.

    Nor more unique tokens, width or depth, where the table has them: the forms that use them may rise between the two.
    """
    rises: list[tuple[float, int, int]] = []
    for row in range(len(table)):
        is_less = (table.params <= table.params[row]) & (table.tokens <= table.tokens[row])
        for name in ("tokens_unique", "width", "depth"):
            if name in table.numbers:
                is_less &= table.numbers[name] <= table.numbers[name][row]
        peers = np.flatnonzero(is_less & (table.architecture_N == table.architecture_N[row]))
        best = int(peers[table.losses[peers].argmin()])
        rises.append((float(table.losses[row] / table.losses[best] - 1), row, best))
    rises = sorted((rise for rise in rises if rise[0] > _MAX_RISE), reverse=True)
    if rises:
        share, row, best = rises[0]
        text = (
            f"{len(rises)} runs ended over {_MAX_RISE:.0%} above one with no more parameters and tokens, by up to "
            f"{share:.0%} (line {table.lines[row]} above line {table.lines[best]}). No law has that: a run may have "
            "diverged, its learning rate does not suit its size, or it repeats its data too often"
        )
        yield Notice("loss-rises", text)


def suspect_decay(table: RunTable) -> Iterator[Notice]:
    """Warn of losses from before the decay."""
    decayed = decayed_rows(table)
    if decayed is not None and not decayed.any():
        yield Notice("undecayed", "all losses are from before the decay: no run that ends well has them")
    if decayed is None and "run_id" in table.texts:
        runs = [f"{a}/{r}" for a, r in zip(table.architecture_N, table.texts["run_id"], strict=True)]
        if len(set(runs)) < len(runs):
            text = f"{len(runs)} points of {len(set(runs))} runs, and no column is_decayed"
            yield Notice("points-of-one-run", text)


def decayed_rows(table: RunTable) -> Booleans | None:
    """Return which losses are from after the decay, or None where the table does not say."""
    for name in ("is_decayed", "decayed"):
        if name in table.texts:
            words = [str(word).strip().lower() for word in table.texts[name]]
            if unknown := sorted(set(words) - _TRUE - _FALSE):
                raise refusal(
                    "bad-number",
                    f"{table.path} {name}",
                    found=repr(unknown[0]),
                    allowed="true or false",
                    remedy="Say for every row whether the learning rate had decayed.",
                )
            return np.array([word in _TRUE for word in words])
    return None
