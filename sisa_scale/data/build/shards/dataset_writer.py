"""The last stage of a build: duplicates are found, units are put together, and the manifest says what came out."""

import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sisa_scale.data import manifest as format_
from sisa_scale.data.build.engines import EngineInfo
from sisa_scale.data.build.inputs.input_file import Input
from sisa_scale.data.build.planning import BuildPlan
from sisa_scale.data.build.settings import BuildSettings
from sisa_scale.data.build.shards.assembly import SplitAssembler, UnitResult, assemble, read_chunks
from sisa_scale.data.build.shards.dedup import find_duplicates
from sisa_scale.data.build.shards.staging import Staging
from sisa_scale.data.build.shards.statistics import Samples, SplitStatistics, write_statistics
from sisa_scale.data.build.texts.cleaning import REASONS
from sisa_scale.data.build.unit_work import SPLITS
from sisa_scale.data.manifest import BuildInfo, Manifest, PackingInfo, SourceInfo, TokenizerInfo
from sisa_scale.data.tokenizer import Tokenizer
from sisa_scale.files import sha256_file

# How many files passed over and bad records a manifest lists; all are counted.
MAX_LISTED = 1000


def write_dataset(
    settings: BuildSettings,
    plan: BuildPlan,
    tokenizer_name: str,
    tokenizer: Tokenizer,
    engine: EngineInfo,
    lost_share: float,
    results: Sequence[UnitResult],
    staging: Staging,
    progress: Callable[[int], None],
) -> Manifest:
    """Write everything but the manifest into a new directory, and return that. progress: told the tokens so far."""
    files = plan.files
    directory = staging.new_dataset()
    shutil.copyfile(staging.path / format_.TOKENIZER_NAME, directory / format_.TOKENIZER_NAME)
    dtype = format_.token_dtype(tokenizer.vocab_size)
    is_duplicate = _find_duplicates(results, staging) if settings.cleaning.deduplicate else None
    removed = _count_removed(results, staging.units, is_duplicate, len(files))
    names = SPLITS if settings.heldout_fraction else SPLITS[:1]
    assemblers = {
        name: SplitAssembler(
            directory,
            name,
            dtype=dtype,
            block_tokens=settings.block_tokens,
            blocks_per_shard=settings.blocks_per_shard,
            eos_id=tokenizer.eos_id,
            statistics=SplitStatistics(tokenizer.vocab_size, len(files)),
            sequence_tokens=settings.sequence_tokens if name == "train" and settings.packing == "best_fit" else None,
        )
        for name in names
    }
    samples = Samples(tokenizer, _num_train_documents(results, staging.units, is_duplicate), [f.name for f in files])
    assemble(
        read_chunks(results, staging.units, dtype, is_duplicate),
        assemblers,
        samples,
        lambda: progress(sum(each.statistics.num_tokens for each in assemblers.values())),
    )
    splits = {}
    written = []
    for name, assembler in assemblers.items():
        splits[name], lists = assembler.close()
        written += lists
    statistics = {name: assembler.statistics for name, assembler in assemblers.items()}
    written.append(
        write_statistics(
            directory,
            splits=statistics,
            names=[file.name for file in files],
            removed=removed,
            tokenizer=tokenizer,
            samples=samples.samples,
        )
    )
    cleaning = settings.cleaning
    packed = settings.packing == "best_fit" and settings.sequence_tokens is not None
    return Manifest(
        dtype=dtype,
        block_tokens=settings.block_tokens,
        eos_id=tokenizer.eos_id,
        seed=settings.seed,
        heldout_fraction=plan.holding.fraction,
        tokenizer=TokenizerInfo(format_.TOKENIZER_NAME, tokenizer.sha256, tokenizer.vocab_size, tokenizer_name),
        sources=_sources(files, results),
        splits=splits,
        packing=PackingInfo(settings.packing, settings.sequence_tokens or 0, statistics["train"].num_padding_tokens)
        if packed
        else None,
        build=BuildInfo(
            engine=engine.name,
            engine_version=engine.version,
            num_verified_documents=engine.num_verified_documents,
            text_field=cleaning.text_field,
            normalization=cleaning.normalization,
            unicode_version=unicodedata.unidata_version,
            min_characters=cleaning.min_characters,
            min_tokens=cleaning.min_tokens,
            deduplicate=cleaning.deduplicate,
            num_removed=dict(zip(REASONS, removed.sum(axis=1).tolist(), strict=True)),
            files={path.name: sha256_file(path) for path in written},
            heldout_rule=plan.holding.rule,
            lost_share=lost_share,
            on_bad_record=settings.on_bad_record,
            passed_over=tuple(asdict(entry) for entry in plan.passed_over[:MAX_LISTED]),
            num_passed_over=len(plan.passed_over),
            bad_records=tuple(_bad_records(results)[:MAX_LISTED]),
        ),
    )


def _find_duplicates(results: Sequence[UnitResult], staging: Staging) -> npt.NDArray[np.bool_]:
    num_rows = sum(rows.size for rows in _all_documents(results, staging.units))
    hashes = (rows["hash"] for rows in _all_documents(results, staging.units))
    is_duplicate = find_duplicates(hashes, num_rows, staging.scratch())
    num_before = 0
    for rows in _all_documents(results, staging.units):
        for number in np.flatnonzero(rows["is_continued"]).tolist():
            is_duplicate[num_before + number] = is_duplicate[num_before + number - 1]
        num_before += rows.size
    return is_duplicate


def _all_documents(results: Sequence[UnitResult], directory: Path) -> Iterator[npt.NDArray[Any]]:
    return chain.from_iterable(result.documents(directory) for result in results)


def _count_removed(
    results: Sequence[UnitResult], directory: Path, is_duplicate: npt.NDArray[np.bool_] | None, num_sources: int
) -> npt.NDArray[np.int64]:
    """Return the number of documents left out, by reason and source."""
    removed = np.zeros((len(REASONS), num_sources), dtype=np.int64)
    num_before = 0
    for result in results:
        for source, part in zip(result.unit.sources, result.summary.parts, strict=True):
            for reason, count in part.removed.items():
                removed[REASONS.index(reason), source] += count
        if is_duplicate is None:
            continue
        for rows in result.documents(directory):
            is_removed = is_duplicate[num_before : num_before + rows.size] & (rows["is_continued"] == 0)
            parts = rows["part"][is_removed]
            np.add.at(removed[REASONS.index("duplicate")], np.array(result.unit.sources)[parts], 1)
            num_before += rows.size
    return removed


def _num_train_documents(
    results: Sequence[UnitResult], directory: Path, is_duplicate: npt.NDArray[np.bool_] | None
) -> int:
    total = num_before = 0
    for rows in _all_documents(results, directory):
        is_train = (rows["split"] == 0) & (rows["is_continued"] == 0)
        if is_duplicate is not None:
            is_train = is_train & ~is_duplicate[num_before : num_before + rows.size]
        total += int(is_train.sum())
        num_before += rows.size
    return total


def _bad_records(results: Sequence[UnitResult]) -> list[dict[str, str]]:
    return [
        {"file": entry.file, "where": entry.where.removeprefix(part.file.label).strip(", "), "found": entry.found}
        for result in results
        for part, summary in zip(result.unit.parts, result.summary.parts, strict=True)
        for entry in summary.bad
    ]


def _sources(files: Sequence[Input], results: Sequence[UnitResult]) -> tuple[SourceInfo, ...]:
    digests = {
        source: part.sha256
        for result in results
        for source, part in zip(result.unit.sources, result.summary.parts, strict=True)
        if part.sha256 is not None
    }
    return tuple(SourceInfo(file.name, digests[number], file.num_bytes) for number, file in enumerate(files))
