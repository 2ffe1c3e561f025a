"""The table of runs: one row a point, columns by meaning, every number in its unit.

Needed: `params_scaling`, `tokens`, `loss`. Used where present: see OPTIONAL. Other columns are kept as text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sisa_scale.scaling.fit.arrays import Booleans, Floats, Integers, Texts, floats
from sisa_scale.scaling.table.cells import read_errors, read_numbers
from sisa_scale.scaling.table.csv_source import Source, normalise, read_source
from sisa_scale.scaling.table.headers import USUAL, guess, is_marked, unread_columns
from sisa_scale.scaling.table.notices import Notice, refusal

REQUIRED = ("params_scaling", "tokens", "loss")
OPTIONAL = {
    "train_flops": "exact FLOPs of training",
    "seconds": "wall time x devices, on one kind of device",
    "architecture": "name; one law each, or shared exponents",
    "run_id": "name of the run",
    "trunk_id": "runs that share a trunk are one cluster of the bootstrap",
    "seed": "tells repetitions from duplicates",
    "budget": "the isoFLOP budget that the run belongs to",
    "width": "for the form width-depth",
    "depth": "for the form width-depth",
    "tokens_unique": "for repeated data",
    "loss_se": "standard error of the loss; shown, not used as a weight",
    "excluded": "a reason why the row is left out; empty for rows that count",
}
_NUMBERS = (*REQUIRED, "train_flops", "seconds", "budget", "width", "depth", "tokens_unique", "params_total",
            "params_nonembedding", "params_embedding", "bits_per_byte", "perplexity", "epochs")  # fmt: skip
_FROM_ARRAYS = (*_NUMBERS, "loss_se")
ONLY = "all"


@dataclass(frozen=True, slots=True)
class RunTable:
    """Points [N]. `architecture_N` is ONLY where the table names none; `numbers` has the other numeric columns."""

    path: str
    sha256: str
    lines: Integers
    params: Floats
    tokens: Floats
    losses: Floats
    train_flops: Floats | None
    seconds: Floats | None
    architecture_N: Texts
    cluster_N: Integers
    numbers: dict[str, Floats]
    texts: dict[str, Texts]
    notices: tuple[Notice, ...] = ()
    loss_unit: str = "nats/token"

    def __len__(self) -> int:
        return len(self.losses)

    @property
    def architectures(self) -> list[str]:
        """Names in the order of the table."""
        return list(dict.fromkeys(self.architecture_N.tolist()))

    @property
    def flops(self) -> Floats:
        """Exact FLOPs, or 6 x parameters x tokens where the table has none."""
        return 6 * self.params * self.tokens if self.train_flops is None else self.train_flops

    def select(self, keep: Booleans | Integers) -> "RunTable":
        """Return a table of some of the points."""
        return replace(
            self,
            lines=self.lines[keep],
            params=self.params[keep],
            tokens=self.tokens[keep],
            losses=self.losses[keep],
            train_flops=None if self.train_flops is None else self.train_flops[keep],
            seconds=None if self.seconds is None else self.seconds[keep],
            architecture_N=self.architecture_N[keep],
            cluster_N=self.cluster_N[keep],
            numbers={name: values[keep] for name, values in self.numbers.items()},
            texts={name: values[keep] for name, values in self.texts.items()},
        )


def clusters_of(table: RunTable) -> dict[str, int]:
    """Return the number of clusters of every architecture."""
    names = table.architecture_N
    return {name: len(np.unique(table.cluster_N[names == name])) for name in table.architectures}


def parse_columns(text: str) -> dict[str, str]:
    """Read `meaning=column,...`, for tables whose columns have other names."""
    mapping = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        meaning, _, column = part.partition("=")
        if not column:
            raise refusal(
                "bad-request",
                "--columns",
                found=repr(part),
                allowed="meaning=column, separated by commas",
                remedy='For example --columns "params_scaling=Model Size,loss=final loss".',
            )
        mapping[normalise(meaning)] = normalise(column)
    return mapping


def read_table(
    path: Path, *, columns: Mapping[str, str] | None = None, by: str = "architecture", tokens_from_flops: bool = False
) -> RunTable:
    """Read a table of runs; meanings are not yet checked (see `checks.check_table`).

    columns: meaning -> column of the file. by: the column that names architectures. tokens_from_flops: tokens are
    train_flops / (6 params_scaling). Raises RefusalError.
    """
    source = read_source(path)
    renamed = {normalise(meaning): normalise(column) for meaning, column in (columns or {}).items()}
    for column in renamed.values():
        if column not in source.columns:
            raise _missing(source, column, "--columns names columns of the file")
    taken = set(renamed.values())
    cells = {name: cells for name, cells in source.columns.items() if name not in taken and name not in renamed}
    cells |= {meaning: source.columns[column] for meaning, column in renamed.items()}
    needed = [name for name in REQUIRED if not (name == "tokens" and tokens_from_flops)]
    needed += ["train_flops"] if tokens_from_flops else []
    guessed = guess(cells, needed)
    cells |= {meaning: cells.pop(column) for meaning, column in guessed.items()}
    marks = cells.get("excluded", [""] * len(source.lines))
    kept = [i for i in range(len(source.lines)) if not is_marked(marks[i])]
    notices = list(source.notices)
    if left_out := len(source.lines) - len(kept):
        notices.append(Notice("excluded-rows", f"{left_out} of {len(source.lines)} rows are marked as excluded"))
    if guessed:
        text = ",".join(f"{meaning}={column}" for meaning, column in guessed.items())
        notices.append(Notice("guessed-columns", f"--columns {text}"))
    for name in needed:
        if name not in cells:
            raise _missing(source, name, f"needed are {', '.join(needed)}")
    if by != "architecture" and normalise(by) not in cells:
        raise _missing(source, normalise(by), "--by names a column of the file")
    numbers = {}
    for name in _NUMBERS:
        values = read_numbers(source, name, cells[name], kept, is_needed=name in needed) if name in cells else None
        if values is not None:
            numbers[name] = values
    if "loss_se" in cells and ("loss" not in renamed or "loss_se" in renamed):
        errors = read_errors(source, cells["loss_se"], kept)
        numbers |= {} if errors is None else {"loss_se": errors}
    if tokens_from_flops:
        numbers["tokens"] = numbers["train_flops"] / (6 * numbers["params_scaling"])
    texts = {name: np.array([values[i] for i in kept], dtype=np.str_) for name, values in cells.items()}
    names = texts.get(normalise(by))
    notices += unread_columns(cells, kept, has_flops="train_flops" in numbers, by=normalise(by))
    return RunTable(
        path=source.path,
        sha256=source.sha256,
        lines=np.array([source.lines[i] for i in kept]),
        params=numbers.pop("params_scaling"),
        tokens=numbers.pop("tokens"),
        losses=numbers.pop("loss"),
        train_flops=numbers.pop("train_flops", None),
        seconds=numbers.pop("seconds", None),
        architecture_N=np.full(len(kept), ONLY) if names is None else names,
        cluster_N=np.arange(len(kept)),
        numbers=numbers,
        texts=texts,
        notices=tuple(notices),
    )


def table_of(params: Any, tokens: Any, losses: Any, **columns: Any) -> RunTable:
    """Return a table from arrays; `train_flops`, `seconds` (numbers), `architecture` (names) and `cluster` are used."""
    losses = floats(losses)
    names = columns.get("architecture")
    flops, seconds = columns.get("train_flops"), columns.get("seconds")
    return RunTable(
        path="(arrays)",
        sha256="",
        lines=np.arange(len(losses)),
        params=floats(params),
        tokens=floats(tokens),
        losses=losses,
        train_flops=None if flops is None else floats(flops),
        seconds=None if seconds is None else floats(seconds),
        architecture_N=np.full(len(losses), ONLY) if names is None else np.asarray(names, dtype=np.str_),
        cluster_N=np.asarray(columns.get("cluster", np.arange(len(losses)))),
        numbers={name: floats(columns[name]) for name in _FROM_ARRAYS if name in columns},
        texts={},
    )


def _missing(source: Source, name: str, rule: str) -> Exception:
    names = ", ".join(list(source.columns)[:14])
    several = [column for column in USUAL.get(name, ()) if column in source.columns]
    return refusal(
        "missing-column",
        source.path,
        found=f"no column {name} (columns: {names})",
        allowed=rule,
        remedy=f"Rename the column, or map it with --columns {name}={several[0] if several else 'NAME'}"
        + (f" (or {', '.join(several[1:])})." if len(several) > 1 else "."),
    )
