"""From files of text to a data set: documents -> tokens -> blocks -> shards -> manifest.

The inputs are cut into units (`data.units`). Each is read, cleaned and tokenized by itself (`data.unit_work`), by this
process or by as many others as there are: `run_units` says who does it, and nothing else depends on that. Then one
process puts the results together in the order of the inputs (`data.assembly`).

Memory holds a few MB of text a worker (or one document, if that is longer), and 50 bytes a document of the largest
unit. Until a build is complete its staging directory takes the size of the tokens, 48 bytes a document, and once more
the tokens while they are put together.
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
from sisa_scale.data.build.engines import EngineInfo, choose_engine
from sisa_scale.data.build.inputs import Input, find_inputs
from sisa_scale.data.build.settings import BuildSettings
from sisa_scale.data.build.staging import Staging, open_staging
from sisa_scale.data.build.text import TEXT_FIELD, no_document, read_texts
from sisa_scale.data.build.unit_work import UnitSummary, WorkSettings, load_summary, work_on_unit
from sisa_scale.data.build.units import UNIT_BYTES, Unit, plan_units
from sisa_scale.data.manifest import Manifest
from sisa_scale.data.tokenizer import Tokenizer, load_tokenizer
from sisa_scale.errors import DataError
from sisa_scale.files import atomic_writer, write_json

__all__ = ["BuildProgress", "UnitRunner", "build_dataset", "is_heldout", "run_here"]

# Below this a fast engine costs more time to check than it saves.
_FAST_ENGINE_BYTES = 8 << 20
_SAMPLED_UNITS, _SAMPLED_DOCUMENTS = 16, 64

# Told of a unit by its number: its counts so far, and the file it is at.
UnitReport = Callable[[int, UnitSummary, str], None]
# Does the work on every unit, in any order and by anyone, and returns the summaries in the order of the units.
UnitRunner = Callable[[Sequence[Unit], WorkSettings, Path, UnitReport], list[UnitSummary]]


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far a build is. num_bytes: of UTF-8 text; num_tokens: document ends included; source: the current file.

    stage: "tokenize" or "assemble"; num_done of num_total: stored bytes of the inputs in the first, tokens in the
    second.
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
) -> Manifest:
    """Tokenize files and directories, on this machine or by URL, into the new directory `out`.

    block_tokens: a power of two; every sequence length that divides it can be trained on. heldout_fraction: share of
    the documents, chosen by a hash of their text and `seed`, that goes to the split "heldout"; 0 for none.
    normalization: "none", "nfc" or "nfkc", before all else. min_characters, min_tokens: shorter documents are left out.
    deduplicate: of documents with equal text only the first is kept. packing: "concat" keeps the order in which the
    documents are read; "best_fit" packs them into sequences of `sequence_tokens` without cutting one that is shorter,
    in the split "train" only. engine: see `choose_engine`. unit_bytes: text that is worked on at a time.
    The same inputs and settings give the same bytes, whoever runs the units.

    `out` appears only when it is complete. With `resumable`, what is done when the build ends early stays in a hidden
    directory beside it and is not done again; without, nothing is left but by a kill.

    Raises ConfigError for settings out of range or other than those of the build to be continued, and DataError for
    unreadable inputs, an existing `out`, no training document, or fewer than `min_heldout_documents` held out.
    """
    announce = announce or (lambda _: None)
    settings = BuildSettings(
        block_tokens, blocks_per_shard, heldout_fraction, seed, packing, sequence_tokens, unit_bytes,
        Cleaning(text_field, normalization, min_characters, min_tokens, deduplicate),
    )  # fmt: skip
    settings.check()
    if out.exists():
        raise DataError.at(
            out,
            found="an existing file or directory",
            allowed="a data set is built into a new directory",
            remedy=f"Choose another name, or remove it first: rm -r {out}",
        )
    files = find_inputs(inputs)
    loaded = load_tokenizer(tokenizer)
    units = plan_units(files, unit_bytes)
    with open_staging(out, is_resumable=resumable) as staging:
        staging.agree(
            asdict(settings)
            | {"tokenizer": loaded.sha256, "unicode": unicodedata.unidata_version, "requested_engine": engine}
        )
        chosen = _choose_engine(engine, loaded, units, settings.cleaning, staging, announce)
        copied = staging.path.resolve() / format_.TOKENIZER_NAME
        with atomic_writer(copied) as stream:
            stream.write(tokenizer.read_bytes())
        work = _work_settings(settings, loaded, copied, chosen)
        meter = _Meter(units, progress)
        summaries = _work_on_all(units, work, staging.units, run_units, meter)
        results = _results(files, units, work, summaries)
        manifest = write_dataset(settings, files, tokenizer.name, loaded, chosen, results, staging, meter.assembled)
        _check_counts(manifest, heldout_fraction, min_heldout_documents)
        manifest.save(staging.dataset)
        staging.publish()
    return manifest


def _work_on_all(
    units: Sequence[Unit], settings: WorkSettings, directory: Path, run_units: UnitRunner, meter: "_Meter"
) -> list[UnitSummary]:
    """Have the work done that an earlier attempt has not done; return the summaries of all units."""
    summaries = [load_summary(directory, unit, settings) for unit in units]
    numbers = [number for number, summary in enumerate(summaries) if summary is None]
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


def _choose_engine(
    name: str,
    tokenizer: Tokenizer,
    units: Sequence[Unit],
    cleaning: Cleaning,
    staging: Staging,
    announce: Callable[[str], None],
) -> EngineInfo:
    """Return the engine this build began with, or choose one."""
    path = staging.path / "engine.json"
    if path.exists():
        return EngineInfo(**json.loads(path.read_bytes()))
    if name == "auto" and sum(unit.num_bytes for unit in units) < _FAST_ENGINE_BYTES:
        name = "tokenizers"
    chosen = choose_engine(name, tokenizer, _sample(units, cleaning), announce)
    write_json(path, asdict(chosen))
    return chosen


def _sample(units: Sequence[Unit], cleaning: Cleaning) -> Iterator[str]:
    """Yield the first documents of some units spread over the corpus."""
    for unit in units[:: -(-len(units) // _SAMPLED_UNITS)]:
        for part in unit.parts[:1]:
            texts = read_texts(part, cleaning.text_field)
            for _, text in zip(range(_SAMPLED_DOCUMENTS), texts, strict=False):
                yield cleaning.normalize(text)


def _work_settings(settings: BuildSettings, tokenizer: Tokenizer, copied: Path, engine: EngineInfo) -> WorkSettings:
    content = [
        asdict(settings.cleaning),
        settings.heldout_fraction,
        settings.seed,
        tokenizer.sha256,
        asdict(engine),
        unicodedata.unidata_version,
    ]
    return WorkSettings(
        key=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        tokenizer=copied,
        tokenizer_sha256=tokenizer.sha256,
        engine=engine.name,
        engine_version=engine.version,
        eos_id=tokenizer.eos_id,
        vocab_size=tokenizer.vocab_size,
        dtype=format_.token_dtype(tokenizer.vocab_size),
        cleaning=settings.cleaning,
        heldout_fraction=settings.heldout_fraction,
        seed=settings.seed,
    )


class _Meter:
    """Adds up the counts of all units."""

    def __init__(self, units: Sequence[Unit], progress: Callable[[BuildProgress], None] | None) -> None:
        self._units, self._progress = units, progress
        self._counts = np.zeros((len(units), 4), dtype=np.int64)
        self._num_total = sum(unit.num_bytes for unit in units)
        self._source = units[-1].parts[-1].file.url if units else ""

    def report(self, number: int, summary: UnitSummary, source: str) -> None:
        self.count(number, summary)
        self._tell(source, "tokenize", int(self._counts[:, 3].sum()), self._num_total)

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
    num_records = [0] * len(files)
    results = []
    for unit, summary in zip(units, summaries, strict=True):
        first_records = []
        for source, part in zip(unit.sources, summary.parts, strict=True):
            first_records.append(num_records[source])
            num_records[source] += part.num_records
        results.append(UnitResult(unit, unit.key(work.key), summary, tuple(first_records)))
    for file, count in zip(files, num_records, strict=True):
        if not count:
            raise no_document(file.url)
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
