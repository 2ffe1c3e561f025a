"""From files of text to a data set: documents -> tokens -> blocks -> shards -> manifest.

The inputs are cut into units (`data.units`). They are read once to find what is bad and to plan (`data.planning`). Then
each is read, cleaned and tokenized by itself (`data.unit_work`), by this process or by as many others as there are:
`run_units` says who does it, and nothing else depends on that. Then one process puts the results together in the order
of the inputs (`data.assembly`).

Memory holds a few MB of text a worker (or one record, or one `.txt` of up to `unit_bytes`, if that is longer), and 50
bytes a document of the largest unit. Until a build is complete its staging directory takes the size of the tokens, 48
bytes a document, and once more the tokens while they are put together.
"""

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sisa_scale.data import manifest as format_
from sisa_scale.data.build.assembly import UnitResult
from sisa_scale.data.build.cleaning import Cleaning, is_heldout
from sisa_scale.data.build.dataset_writer import write_dataset
from sisa_scale.data.build.engines import REFERENCE, EngineInfo, choose_engine, installed_version
from sisa_scale.data.build.find import Found, find_inputs
from sisa_scale.data.build.fitness import check_fitness, lost_share
from sisa_scale.data.build.inputs import Input
from sisa_scale.data.build.long_text import open_bytes
from sisa_scale.data.build.planning import BuildPlan, plan_build
from sisa_scale.data.build.records import Record
from sisa_scale.data.build.settings import BuildSettings
from sisa_scale.data.build.staging import Staging, open_staging
from sisa_scale.data.build.summaries import UnitSummary
from sisa_scale.data.build.text import TEXT_FIELD, no_document, read_records
from sisa_scale.data.build.unit_work import WorkSettings, load_summary, work_on_unit
from sisa_scale.data.build.units import UNIT_BYTES, Unit
from sisa_scale.data.manifest import Manifest
from sisa_scale.data.problems import os_errors
from sisa_scale.data.tokenizer import Tokenizer, load_tokenizer
from sisa_scale.errors import DataError
from sisa_scale.files import atomic_writer, write_json

__all__ = ["BuildProgress", "UnitRunner", "build_dataset", "is_heldout", "run_here"]

# Below this a fast engine costs more time to check than it saves.
_FAST_ENGINE_BYTES = 8 << 20
_SAMPLED_UNITS, _SAMPLED_DOCUMENTS, _SAMPLED_BYTES = 16, 64, 1 << 17
_MAX_ANNOUNCED = 20
# Of the files that the work on a unit leaves; another release's are not gone on with.
_RESULTS_VERSION = 2

# Told of a unit by its number: its counts so far, and the file it is at.
UnitReport = Callable[[int, UnitSummary, str], None]
# Does the work on every unit, in any order and by anyone, and returns the summaries in the order of the units.
UnitRunner = Callable[[Sequence[Unit], WorkSettings, Path, UnitReport], list[UnitSummary]]


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far a build is. num_bytes: of UTF-8 text; num_tokens: document ends included; source: the current file.

    stage: "survey", "tokenize" or "assemble"; num_done of num_total: stored bytes of the inputs in the first two,
    tokens in the last.
    """

    num_documents: int
    num_bytes: int
    num_tokens: int
    source: str
    stage: str
    num_done: int
    num_total: int


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


def announce_inputs(found: Found, announce: Callable[[str], None]) -> None:
    """Say what is read, and what is passed over and why."""
    num_bytes = sum(file.num_bytes for file in found.files)
    announce(f"reading {len(found.files):,} file{'s'[: len(found.files) != 1]}, {num_bytes:,} bytes as stored")
    if found.passed_over:
        announce(f"passing over {len(found.passed_over):,}:")
    for entry in found.passed_over[:_MAX_ANNOUNCED]:
        announce(f"  {entry.name}: {entry.reason}")
    if len(found.passed_over) > _MAX_ANNOUNCED:
        announce(f"  and {len(found.passed_over) - _MAX_ANNOUNCED:,} more, which dataset.json will list")


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
        survey = self._work_settings("survey", copied, reference, None)
        plan = plan_build(found, self._settings, lambda units: self._work(units, survey)[0], self._announce)
        chosen, lost = self._choose_engine(engine, plan)
        work = self._work_settings("tokenize", copied, chosen, plan)
        summaries, meter = self._work(plan.units, work)
        results = _results(plan.files, plan.units, work, summaries)
        return write_dataset(
            self._settings, plan, tokenizer_name, self._tokenizer, chosen, lost, results, self._staging, meter.assembled
        )

    def _work(self, units: Sequence[Unit], work: WorkSettings) -> tuple[list[UnitSummary], "_Meter"]:
        """Have the work done that an earlier attempt has not done; return the summaries of all units."""
        meter = _Meter(units, work.stage, self._progress)
        return _work_on_all(units, work, self._staging.units, self._run_units, meter, self._announce), meter

    def _choose_engine(self, name: str, plan: BuildPlan) -> tuple[EngineInfo, float]:
        """Return the engine this build began with, or choose one; and the share of text that the tokenizer loses."""
        path = self._staging.path / "engine.json"
        request = [name, self._tokenizer.sha256, self._settings.cleaning.text_field]
        noted = json.loads(path.read_bytes()) if path.exists() else {}
        if noted.get("request") == request:
            return EngineInfo(**noted["engine"]), float(noted["lost_share"])
        sample = [*_sample(plan.units, self._settings.cleaning)]
        lost = lost_share(self._tokenizer, sample, self._announce)
        if name == "auto" and plan.num_bytes < _FAST_ENGINE_BYTES:
            name = REFERENCE
        chosen = choose_engine(name, self._tokenizer, sample, self._announce)
        write_json(path, {"request": request, "engine": asdict(chosen), "lost_share": lost})
        return chosen, lost

    def _work_settings(self, stage: str, copied: Path, engine: EngineInfo, plan: BuildPlan | None) -> WorkSettings:
        settings, tokenizer = self._settings, self._tokenizer
        fraction = plan.holding.fraction if plan else settings.heldout_fraction
        cutting = plan.holding.cutting if plan else None
        content = [
            _RESULTS_VERSION,
            stage,
            asdict(settings.cleaning),
            fraction,
            asdict(cutting) if cutting else None,
            settings.seed,
            settings.unit_bytes,
            tokenizer.sha256,
            tokenizer.eos_id,
            asdict(engine),
            unicodedata.unidata_version,
        ]
        return WorkSettings(
            key=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
            stage=stage,
            tokenizer=copied,
            tokenizer_sha256=tokenizer.sha256,
            engine=engine.name,
            engine_version=engine.version,
            eos_id=tokenizer.eos_id,
            vocab_size=tokenizer.vocab_size,
            dtype=format_.token_dtype(tokenizer.vocab_size),
            cleaning=settings.cleaning,
            heldout_fraction=fraction,
            cutting=cutting,
            seed=settings.seed,
            unit_bytes=settings.unit_bytes,
            on_bad_record=settings.on_bad_record,
        )


def _work_on_all(
    units: Sequence[Unit],
    settings: WorkSettings,
    directory: Path,
    run_units: UnitRunner,
    meter: "_Meter",
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


def _sample(units: Sequence[Unit], cleaning: Cleaning) -> Iterator[str]:
    """Yield the first documents of some units spread over the corpus, the beginnings of long ones."""
    for unit in units[:: -(-len(units) // _SAMPLED_UNITS)]:
        part = unit.parts[0]
        if part.stretch is not None:
            raw = open_bytes(part.file, part.start).read(_SAMPLED_BYTES)
            yield cleaning.normalize(raw.decode(errors="ignore"))
            continue
        texts = (record.text for record in read_records(part, cleaning.text_field) if isinstance(record, Record))
        for _, text in zip(range(_SAMPLED_DOCUMENTS), filter(None, texts), strict=False):
            yield cleaning.normalize(text[:_SAMPLED_BYTES])


class _Meter:
    """Adds up the counts of all units."""

    def __init__(self, units: Sequence[Unit], stage: str, progress: Callable[[BuildProgress], None] | None) -> None:
        self._units, self._stage, self._progress = units, stage, progress
        self._counts = np.zeros((len(units), 4), dtype=np.int64)
        self._num_total = sum(unit.num_bytes for unit in units)
        self._source = units[-1].parts[-1].file.label if units else ""

    def report(self, number: int, summary: UnitSummary, source: str) -> None:
        self.count(number, summary)
        self._tell(source, self._stage, int(self._counts[:, 3].sum()), self._num_total)

    def assembled(self, num_tokens: int) -> None:
        self._tell(self._source, "assemble", num_tokens, int(self._counts[:, 2].sum()))

    def count(self, number: int, summary: UnitSummary) -> None:
        read = min(summary.num_read_bytes, self._units[number].num_bytes)
        self._counts[number] = summary.num_documents, summary.num_bytes, summary.num_tokens, read

    def _tell(self, source: str, stage: str, num_done: int, num_total: int) -> None:
        if self._progress is not None:
            documents, num_bytes, tokens, _ = self._counts.sum(axis=0).tolist()
            self._progress(BuildProgress(documents, num_bytes, tokens, source, stage, num_done, num_total))


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
            remedy="Raise the share, cut the text into more documents, or set the share to 0 to hold out nothing.",
        )
