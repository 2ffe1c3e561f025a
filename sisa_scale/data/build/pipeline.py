"""From files of text to a data set: documents -> tokens -> blocks -> shards -> manifest.

The inputs are cut into units (`data.units`). They are read once to find what is bad and to plan (`data.planning`). Then
each is read, cleaned and tokenized by itself (`data.unit_work`), by this process or by as many others as there are:
`run_units` says who does it, and nothing else depends on that. Then one process puts the results together in the order
of the inputs (`data.assembly`).

Memory holds a few MB of text a worker (or one record, or one `.txt` of up to `unit_bytes`, if that is longer), and 50
bytes a document of the largest unit. Until a build is complete its staging directory takes the size of the tokens, 48
bytes a document, and once more the tokens while they are put together.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from sisa_scale.data import manifest as format_
from sisa_scale.data.build.engines import REFERENCE, EngineInfo, choose_engine, installed_version
from sisa_scale.data.build.fitness import check_fitness, lost_share
from sisa_scale.data.build.inputs.find import Found, find_inputs
from sisa_scale.data.build.inputs.input_file import Input
from sisa_scale.data.build.inputs.sample import sample_texts
from sisa_scale.data.build.planning import BuildPlan, announce_inputs, plan_build
from sisa_scale.data.build.progress import BuildProgress, Meter
from sisa_scale.data.build.settings import BuildSettings, WorkSettings
from sisa_scale.data.build.shards.assembly import UnitResult
from sisa_scale.data.build.shards.dataset_writer import write_dataset
from sisa_scale.data.build.shards.staging import Staging, open_staging
from sisa_scale.data.build.shards.summaries import UnitSummary
from sisa_scale.data.build.texts.cleaning import Cleaning, is_heldout
from sisa_scale.data.build.texts.record_files import TEXT_FIELD, no_document
from sisa_scale.data.build.unit_work import load_summary, work_on_unit
from sisa_scale.data.build.units import UNIT_BYTES, Unit
from sisa_scale.data.build.work_settings import work_settings
from sisa_scale.data.manifest import Manifest
from sisa_scale.data.problems import os_errors
from sisa_scale.data.tokenizer import Tokenizer, load_tokenizer
from sisa_scale.errors import DataError
from sisa_scale.files import atomic_writer, write_json

__all__ = ["BuildProgress", "UnitRunner", "build_dataset", "is_heldout", "run_here"]

# Below this a fast engine costs more time to check than it saves.
_FAST_ENGINE_BYTES = 8 << 20

# Told of a unit by its number: its counts so far, and the file it is at.
UnitReport = Callable[[int, UnitSummary, str], None]
# Does the work on every unit, in any order and by anyone, and returns the summaries in the order of the units.
UnitRunner = Callable[[Sequence[Unit], WorkSettings, Path, UnitReport], list[UnitSummary]]


def run_here(units: Sequence[Unit], settings: WorkSettings, directory: Path, report: UnitReport) -> list[UnitSummary]:
    """Do the work on every unit in this process, one after the other."""
    summaries = []
    for number, unit in enumerate(units):

        def tell(summary: UnitSummary, source: str, number: int = number) -> None:
            report(number, summary, source)

        summaries.append(work_on_unit(unit, settings, directory, tell))
        tell(summaries[-1], unit.parts[-1].file.label)
    return summaries


def build_dataset(
    inputs: Sequence[Path | str],
    *,
    tokenizer: Path,
    out: Path,
    block_tokens: int = 1 << 19,
    blocks_per_shard: int = 64,
    heldout_fraction: float = 0.01,
    min_heldout_documents: int = 1,
    seed: int = 0,
    text_field: str = TEXT_FIELD,
    normalization: str = "none",
    min_characters: int = 1,
    min_tokens: int = 1,
    deduplicate: bool = False,
    packing: str = "concat",
    sequence_tokens: int | None = None,
    engine: str = "auto",
    unit_bytes: int = UNIT_BYTES,
    resumable: bool = False,
    run_units: UnitRunner = run_here,
    progress: Callable[[BuildProgress], None] | None = None,
    announce: Callable[[str], None] | None = None,
    eos_token: str | None = None,
    on_bad_record: str = "fail",
) -> Manifest:
    """Tokenize files and directories, on this machine or by URL, into the new directory `out`.

    block_tokens: a power of two; every sequence length that divides it can be trained on. heldout_fraction: share of
    the documents, chosen by a hash of their text and `seed`, that goes to the split "heldout"; 0 for none; where that
    would hold out no document, `data.holding` says which are. normalization: "none", "nfc" or "nfkc", before all else.
    min_characters, min_tokens: shorter documents are left out. deduplicate: of documents with equal text only the first
    is kept. packing: "concat" keeps the order in which the documents are read; "best_fit" packs them into sequences of
    `sequence_tokens` without cutting one that is shorter, in the split "train" only. engine: see `choose_engine`.
    unit_bytes: text that is worked on at a time. eos_token: see `load_tokenizer`. on_bad_record: "fail" at the first
    survey of the inputs, or "skip": leave bad records out, count and list them.
    The same inputs and settings give the same bytes, whoever runs the units.

    `out` appears only when it is complete. With `resumable`, what is done when the build ends early stays in a hidden
    directory beside it and is not done again; without, nothing is left but by a kill.

    Raises ConfigError for settings out of range, and DataError for inputs that cannot be read, bad records, a tokenizer
    that is unfit, a full disk, an existing `out`, no training document, or fewer than `min_heldout_documents` held out.
    """
    announce = announce or (lambda _: None)
    settings = BuildSettings(
        block_tokens, blocks_per_shard, heldout_fraction, seed, packing, sequence_tokens, unit_bytes,
        Cleaning(text_field, normalization, min_characters, min_tokens, deduplicate), on_bad_record,
    )  # fmt: skip
    settings.check()
    with os_errors(out):
        if out.exists():
            raise DataError.at(
                out,
                found="an existing file or directory",
                allowed="a data set is built into a new directory",
                remedy=f"Choose another name, or remove it first: rm -r {out}",
            )
        found = find_inputs(inputs)
        loaded = load_tokenizer(tokenizer, eos_token)
        check_fitness(loaded)
        announce_inputs(found, announce)
        with open_staging(out, is_resumable=resumable) as staging:
            build = _Build(settings, loaded, staging, run_units, progress, announce)
            manifest = build.run(found, engine, tokenizer.name)
            _check_counts(manifest, heldout_fraction, min_heldout_documents)
            manifest.save(staging.dataset)
            staging.publish()
    return manifest


class _Build:
    """One build in its staging directory."""

    def __init__(
        self,
        settings: BuildSettings,
        tokenizer: Tokenizer,
        staging: Staging,
        run_units: UnitRunner,
        progress: Callable[[BuildProgress], None] | None,
        announce: Callable[[str], None],
    ) -> None:
        self._settings, self._tokenizer, self._staging = settings, tokenizer, staging
        self._run_units, self._progress, self._announce = run_units, progress, announce

    def run(self, found: Found, engine: str, tokenizer_name: str) -> Manifest:
        """Do all of it but for the manifest, which is returned."""
        copied = self._staging.path.resolve() / format_.TOKENIZER_NAME
        with atomic_writer(copied) as stream:
            stream.write(self._tokenizer.path.read_bytes())
        reference = EngineInfo(REFERENCE, installed_version(REFERENCE) or "", 0)
        survey = work_settings(self._settings, self._tokenizer, "survey", copied, reference, None)
        plan = plan_build(found, self._settings, lambda units: self._work(units, survey)[0], self._announce)
        chosen, lost = self._choose_engine(engine, plan)
        work = work_settings(self._settings, self._tokenizer, "tokenize", copied, chosen, plan)
        summaries, meter = self._work(plan.units, work)
        results = _results(plan.files, plan.units, work, summaries)
        return write_dataset(
            self._settings, plan, tokenizer_name, self._tokenizer, chosen, lost, results, self._staging, meter.assembled
        )

    def _work(self, units: Sequence[Unit], work: WorkSettings) -> tuple[list[UnitSummary], Meter]:
        """Have the work done that an earlier attempt has not done; return the summaries of all units."""
        meter = Meter(units, work.stage, self._progress)
        return _work_on_all(units, work, self._staging.units, self._run_units, meter, self._announce), meter

    def _choose_engine(self, name: str, plan: BuildPlan) -> tuple[EngineInfo, float]:
        """Return the engine this build began with, or choose one; and the share of text that the tokenizer loses."""
        path = self._staging.path / "engine.json"
        request = [name, self._tokenizer.sha256, self._settings.cleaning.text_field]
        noted = json.loads(path.read_bytes()) if path.exists() else {}
        if noted.get("request") == request:
            return EngineInfo(**noted["engine"]), float(noted["lost_share"])
        sample = [*sample_texts(plan.units, self._settings.cleaning)]
        lost = lost_share(self._tokenizer, sample, self._announce)
        if name == "auto" and plan.num_bytes < _FAST_ENGINE_BYTES:
            name = REFERENCE
        chosen = choose_engine(name, self._tokenizer, sample, self._announce)
        write_json(path, {"request": request, "engine": asdict(chosen), "lost_share": lost})
        return chosen, lost


def _work_on_all(
    units: Sequence[Unit],
    settings: WorkSettings,
    directory: Path,
    run_units: UnitRunner,
    meter: Meter,
    announce: Callable[[str], None],
) -> list[UnitSummary]:
    summaries = [load_summary(directory, unit, settings) for unit in units]
    numbers = [number for number, summary in enumerate(summaries) if summary is None]
    if settings.stage == "tokenize" and len(numbers) < len(units):
        announce(f"going on: {len(units) - len(numbers):,} of {len(units):,} units are done already")
    for number, summary in enumerate(summaries):
        if summary is not None:
            meter.count(number, summary)
    done = run_units(
        [units[number] for number in numbers],
        settings,
        directory,
        lambda number, summary, source: meter.report(numbers[number], summary, source),
    )
    for number, summary in zip(numbers, done, strict=True):
        summaries[number] = summary
        meter.count(number, summary)
    return [summary for summary in summaries if summary is not None]


def _results(
    files: Sequence[Input], units: Sequence[Unit], work: WorkSettings, summaries: Sequence[UnitSummary]
) -> list[UnitResult]:
    """Number the records of each file through its parts. Raises DataError for a file without any."""
    num_records, num_texts, num_bad = ([0] * len(files) for _ in range(3))
    results = []
    for unit, summary in zip(units, summaries, strict=True):
        first_records = []
        for source, part in zip(unit.sources, summary.parts, strict=True):
            first_records.append(num_records[source])
            num_records[source] += part.num_records
            num_texts[source] += part.num_texts
            num_bad[source] += part.removed.get("bad_record", 0)
        results.append(UnitResult(unit, unit.key(work.key), summary, tuple(first_records)))
    empty = [file for file, texts, bad in zip(files, num_texts, num_bad, strict=True) if not texts and not bad]
    if empty and work.on_bad_record == "fail":
        raise DataError.many(no_document(file) for file in empty)
    return results


def _check_counts(manifest: Manifest, heldout_fraction: float, min_heldout_documents: int) -> None:
    train, heldout = manifest.splits["train"], manifest.splits.get("heldout")
    if train.num_documents < 1:
        raise DataError.at(
            "training split",
            found=f"{train.num_documents} documents",
            allowed="at least one",
            remedy="Give more text, hold out a smaller share, or remove less.",
        )
    if heldout is not None and heldout.num_documents < max(1, min_heldout_documents):
        raise DataError.at(
            "held-out split",
            found=f"{heldout.num_documents} of {train.num_documents + heldout.num_documents} documents",
            allowed=f"at least {max(1, min_heldout_documents)} (the share is {heldout_fraction:g})",
            remedy="Give more different documents, raise --heldout-fraction, or hold out none: --heldout-fraction 0.",
        )
