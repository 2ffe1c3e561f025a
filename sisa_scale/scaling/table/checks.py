"""Does the table mean what its columns say? Every test refuses or warns with a code; see `notices`."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from sisa_scale.scaling.fit.arrays import Booleans, Integers
from sisa_scale.scaling.table.csv_source import normalise
from sisa_scale.scaling.table.notices import Notice, RefusalError, refusal
from sisa_scale.scaling.table.table import RunTable, clusters_of, read_table
from sisa_scale.scaling.table.warnings import (
    decayed_rows,
    suspect_decay,
    suspect_losses,
    suspect_rows,
    suspect_trajectories,
    suspect_units,
    trajectories,
)

_FEW_CLUSTERS = 8
_MIN_PARAMS = 1e4
_MAX_NATS = 13.0  # ln of a vocabulary of 440,000: no trained model is worse
_TPP_REFUSED = (1e-3, 1e5)
_FLOPS_FACTOR_REFUSED = (0.5, 200.0)
_ONE_VALUE = {
    "mixed-tokenizers": ("tokenizer", "tokenizer_id", "tokenizer_hash", "tokenizer_sha256", "tokenizer_name"),
    "mixed-corpora": ("corpus", "corpus_id", "dataset", "data_fingerprint"),
    "mixed-evaluation": ("eval_set", "eval_set_id", "evaluation_set", "loss_kind", "loss_split"),
    "mixed-conventions": ("params_convention", "params_scaling_convention"),
}
_NATS = {"", "nat", "nats", "nats/token", "nats_per_token", "nats per token"}
_BITS_PER_BYTE = {"bits/byte", "bits_per_byte", "bits per byte", "bpb"}


def check_table(
    table: RunTable, *, by: str = "architecture", is_bits_per_byte: bool = False, cluster_column: str | None = None
) -> RunTable:
    """Return the table with its clusters and its warnings, or raise RefusalError.

    by: the column of the comparison, which may vary. is_bits_per_byte: losses are bits per byte, which compare across
    tokenizers. cluster_column: what the bootstrap draws together.
    """
    is_bits_per_byte = _check_loss_unit(table) or is_bits_per_byte
    _check_units(table, is_bits_per_byte)
    _check_mixtures(table, by, is_bits_per_byte)
    _check_duplicates(table)
    unit = "bits/byte" if is_bits_per_byte else table.loss_unit
    table = replace(table, cluster_N=cluster(table, cluster_column), loss_unit=unit)
    notices = [
        *suspect_units(table, is_bits_per_byte),
        *suspect_rows(table),
        *suspect_losses(table),
        *suspect_decay(table),
        *([] if cluster_column else suspect_trajectories(table)),
        *few_clusters(table),
    ]
    return replace(table, notices=(*table.notices, *notices))


def few_clusters(table: RunTable) -> Iterator[Notice]:
    """Warn of architectures with few clusters for their points: each has a bootstrap of its own."""
    for name, count in clusters_of(table).items():
        points = int((table.architecture_N == name).sum())
        if count < _FEW_CLUSTERS and count < points:
            of = f" of {name}" if len(table.architectures) > 1 else ""
            yield Notice("few-clusters", f"{count} trunks for the {points} points{of}")


def cluster(table: RunTable, column: str | None = None) -> Integers:
    """Return the cluster of every point: its trunk, else its run, else what looks like one run; equal rows are one.

    column: the column to use instead; equal values of several architectures are then one cluster.
    """
    if column is not None:
        if column not in table.texts:
            raise refusal(
                "missing-column",
                table.path,
                found=f"no column {column}",
                allowed="--cluster names a column of the file",
                remedy="Name the column of the trunk, the seed or the pair.",
            )
        return np.unique(table.texts[column], return_inverse=True)[1].astype(np.int64)
    for name in ("trunk_id", "run_id"):
        if name in table.texts and all(table.texts[name] != ""):
            keys = [f"{a}/{t}" for a, t in zip(table.architecture_N, table.texts[name], strict=True)]
            return np.unique(keys, return_inverse=True)[1].astype(np.int64)
    rows = np.stack([np.unique(table.architecture_N, return_inverse=True)[1], table.params, table.tokens, table.losses])
    owner_N = trajectories(table)
    rows[:, owner_N >= 0] = -1 - owner_N[owner_N >= 0]
    return np.unique(rows, axis=1, return_inverse=True)[1].astype(np.int64).ravel()


def _check_loss_unit(table: RunTable) -> bool:
    """Return whether the column `loss_unit` says bits per byte."""
    units = {str(unit).strip().lower() for unit in table.texts.get("loss_unit", ())}
    if not units or units <= _NATS:
        return False
    if units <= _BITS_PER_BYTE:
        return True
    raise _loss_unit(table, f"loss_unit {', '.join(sorted(units))}", "Multiply bits by ln 2 = 0.693147.")


def _check_units(table: RunTable, is_bits_per_byte: bool) -> None:
    if (rows := table.params < _MIN_PARAMS).any():
        raise refusal(
            "params-unit",
            _lines(table, rows),
            found=f"params_scaling of {table.params[rows][0]:g}",
            allowed=f"parameters are counted one by one and are at least {_MIN_PARAMS:g}",
            remedy="Multiply by 1e6 or 1e9 if the column is in millions or billions.",
        )
    ratio = table.tokens / table.params
    if (rows := (ratio < _TPP_REFUSED[0]) | (ratio > _TPP_REFUSED[1])).any():
        is_low = ratio[rows][0] < 1
        raise refusal(
            "tokens-unit" if is_low else "params-unit",
            _lines(table, rows),
            found=f"{ratio[rows][0]:.3g} tokens per parameter",
            allowed=f"between {_TPP_REFUSED[0]:g} and {_TPP_REFUSED[1]:g} where both are counted one by one",
            remedy=f"The column {'tokens' if is_low else 'params_scaling'} may be in millions or billions.",
        )
    if table.train_flops is not None:
        factor = table.train_flops / (table.params * table.tokens)
        if (rows := (factor < _FLOPS_FACTOR_REFUSED[0]) | (factor > _FLOPS_FACTOR_REFUSED[1])).any():
            raise refusal(
                "flops-unit",
                _lines(table, rows),
                found=f"train_flops = {factor[rows][0]:.3g} x params_scaling x tokens",
                allowed="about 6 for a Transformer, forward and backward; from 0.5 to 200 is read",
                remedy="Count FLOPs one by one, of the whole training.",
            )
    if not is_bits_per_byte and (rows := table.losses > _MAX_NATS).any():
        raise _loss_unit(table, f"a loss of {table.losses[rows][0]:g}", "Take the logarithm if it is a perplexity.")
    if (perplexity := table.numbers.get("perplexity")) is not None:
        gap = np.median(np.abs(np.log(perplexity) - table.losses))
        if gap > 0.05:
            found = f"losses {gap:.3g} from ln(perplexity) in the median"
            raise _loss_unit(table, found, "Bits are nats / ln 2; a perplexity is exp(nats).")


def _check_mixtures(table: RunTable, by: str, is_bits_per_byte: bool) -> None:
    for code, names in _ONE_VALUE.items():
        if code == "mixed-tokenizers" and is_bits_per_byte:
            continue
        for name in names:
            values = sorted({str(value).strip() for value in table.texts.get(name, ())} - {""})
            if len(values) > 1 and name != by:
                remedy = "Fit them apart, or fit bits per byte: --columns loss=bits_per_byte."
                raise refusal(
                    code,
                    f"{table.path} {name}",
                    found=", ".join(values[:4]) + (" ..." if len(values) > 4 else ""),
                    allowed="one law needs losses that can be compared",
                    remedy=remedy if code == "mixed-tokenizers" else "Fit them apart.",
                )
    decayed = decayed_rows(table)
    if decayed is not None and decayed.any() and not decayed.all():
        raise refusal(
            "mixed-decay",
            f"{table.path} is_decayed",
            found=f"{int(decayed.sum())} decayed and {int((~decayed).sum())} undecayed losses",
            allowed="a cooldown lowers the loss; one law needs one kind",
            remedy="Keep the decayed rows, or name the reason for the others in a column `excluded`.",
        )


def _check_duplicates(table: RunTable) -> None:
    if "run_id" not in table.texts:
        return
    seen: dict[tuple[str, str, str, float], int] = {}
    seeds = table.texts.get("seed", [""] * len(table))
    keys = zip(table.architecture_N, table.texts["run_id"], seeds, table.tokens, table.lines, strict=True)
    for architecture, run, seed, tokens, line in keys:
        key = (str(architecture), str(run), str(seed), float(tokens))
        if run and key in seen:
            raise refusal(
                "duplicated-runs",
                f"{table.path}:{line}",
                found=f"run {run} at {tokens:g} tokens, which stands in line {seen[key]} too",
                allowed="a run has one loss at a number of tokens",
                remedy="Remove one of the rows, or give repetitions their own run_id.",
            )
        seen[key] = int(line)


def _loss_unit(table: RunTable, found: str, remedy: str) -> RefusalError:
    return refusal("loss-unit", f"{table.path} loss", found=found, allowed="nats per token", remedy=remedy)


def _lines(table: RunTable, rows: Booleans) -> str:
    lines = table.lines[rows]
    return f"{table.path}:{lines[0]}" + (f" and {len(lines) - 1} more rows" if len(lines) > 1 else "")


def load_table(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    by: str = "architecture",
    tokens_from_flops: bool = False,
    architecture: str | None = None,
    cluster_column: str | None = None,
) -> RunTable:
    """Read and check a table. architecture: use its rows only. cluster_column: what the bootstrap draws together."""
    columns = columns or {}
    table = read_table(path, columns=columns, by=by, tokens_from_flops=tokens_from_flops)
    if architecture is not None:
        if architecture not in table.architectures:
            raise refusal(
                "bad-request",
                "--architecture",
                found=repr(architecture),
                allowed=f"the architectures are {', '.join(table.architectures)}",
                remedy="Name one of them.",
            )
        table = table.select(table.architecture_N == architecture)
    return check_table(
        table,
        by=normalise(by),
        is_bits_per_byte=columns.get("loss") == "bits_per_byte",
        cluster_column=None if cluster_column is None else normalise(cluster_column),
    )
