"""The table of a study: one row for each finished trial, as `laws` reads it, from the run directories alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sisa_scale.config.data import DataConfig
from sisa_scale.config.loading.load import load_config
from sisa_scale.data.manifest import Manifest
from sisa_scale.data.read.sources import load_manifests
from sisa_scale.errors import DataError, SisaScaleError
from sisa_scale.files import write_text
from sisa_scale.runs.files import Run, read_run
from sisa_scale.runs.layout import config_path
from sisa_scale.scaling.csv_text import csv_text
from sisa_scale.studies.directory import Planned, StudyDirectory
from sisa_scale.studies.results.abilities import ability_columns
from sisa_scale.studies.results.cost import device_of, device_seconds
from sisa_scale.studies.state import TrialStatus, final_score, read_states
from sisa_scale.studies.trial import PARAMS_CONVENTION

TABLE = "runs.csv"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Collected:
    """What `collect` found. missing: the trials without a row."""

    path: Path
    rows: tuple[Row, ...]
    missing: tuple[TrialStatus, ...]


def collect(directory: StudyDirectory) -> Collected:
    """Write runs.csv from the finished trials.

    Raises DataError where none but tuning trials has finished, or where trials were trained on other data or with
    another tokenizer.
    """
    states = read_states(directory, directory.trials())
    finished = [status for status in states if status.state == "finished" and status.loss is not None]
    if all(status.trial.values["role"] == "tuning" for status in finished):
        raise DataError.at(
            directory.path,
            found=f"{len(states)} trials, none of which has finished" + (" but tuning trials" if finished else ""),
            allowed="a table has at least one finished run",
            remedy="Submit the study first; `sisa-scale study status` says how it stands.",
        )
    rows, manifests = [], _Manifests()
    for status in finished:
        run = read_run(status.trial.directory)
        rows.append(_row(status.trial, run, manifests))
    _check_one_corpus(directory, rows)
    path = directory.path / TABLE
    write_text(path, csv_text(rows))
    names = {row["run_id"] for row in rows}
    return Collected(path, tuple(rows), tuple(s for s in states if s.trial.name not in names))


class _Manifests:
    """Manifests of data sets, each read once; empty where the data is not to be had any more."""

    def __init__(self) -> None:
        self._known: dict[str, list[Manifest]] = {}

    def of(self, data: DataConfig) -> list[Manifest]:
        """Return those of a run."""
        key = "\n".join(source.path for source in data.sources.values())
        if key not in self._known:
            try:
                self._known[key] = list(load_manifests(data).values())
            except (SisaScaleError, OSError):
                self._known[key] = []
        return self._known[key]


def _row(trial: Planned, run: Run, manifests: _Manifests) -> Row:
    plan, config = trial.values, load_config(config_path(run.path)).config
    loss, bits = (final_score(run, metric, trial.total_steps) for metric in ("loss", "bits_per_byte"))
    assert loss is not None
    data = manifests.of(config.data)
    unique = sum(manifest.splits["train"].num_tokens for manifest in data)
    skipped = sum(bool(step.skipped) for step in run.steps)
    return {
        "run_id": trial.name,
        "trunk_id": plan["trunk"],
        "architecture": plan["architecture"],
        "size": plan["size"],
        "seed": plan["seed"],
        "params_scaling": plan["params_scaling"],
        "params_total": plan["params_scaling"],
        "params_nonembedding": plan["params_nonembedding"],
        "params_convention": PARAMS_CONVENTION,
        "width": config.model.d_model,
        "depth": config.model.num_layers,
        "tokens": plan["tokens"],
        "tokens_unique": min(unique, plan["tokens"]) if unique else "",
        "train_flops": plan["train_flops"],
        "budget": plan["budget_flops"] or "",
        "seconds": float(device_seconds(run)[-1:].sum()),
        "device": device_of(run),
        "loss": loss.value,
        "loss_se": loss.standard_error if loss.standard_error is not None else "",
        "loss_unit": "nats per token",
        "loss_kind": "heldout",
        "bits_per_byte": bits.value if bits and bits.value is not None else "",
        "is_decayed": "true",
        "learning_rate": config.optimizer.learning_rate,
        "steps_skipped": skipped,
        "tokenizer": ",".join(sorted({manifest.tokenizer.sha256[:16] for manifest in data})),
        "data_fingerprint": str(run.provenance.get("data_fingerprint", ""))[:16],
        **ability_columns(trial, run),
        "excluded": "tunes the learning rate" if plan["role"] == "tuning" else "",
    }


def _check_one_corpus(directory: StudyDirectory, rows: Sequence[Row]) -> None:
    for key in ("data_fingerprint", "tokenizer"):
        by_value = {row[key]: row["run_id"] for row in rows if row[key]}
        if len(by_value) > 1:
            found = ", ".join(f"{value} in {name}" for value, name in sorted(by_value.items())[:4])
            raise DataError.at(
                f"{directory.path} {key}",
                found=found,
                allowed="all trials of a study are trained and measured on the same data with the same tokenizer",
                remedy="Run the study in a new directory on one data set.",
            )
