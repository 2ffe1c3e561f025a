"""Measure `sisa-scale data build` on one core: MB/s of text per CPU second, and where the seconds go.

    python tools/benchmark_build.py corpus/*.jsonl.zst --tokenizer gpt-neox-20b.tokenizer.json --engines fastokens

The whole path is measured: unpack, JSON, hash, tokenize, pack, tar, checksums, lists of documents, statistics. CPU
seconds are those of this process with all its threads, so other load on the machine matters little. The share of the
engine alone is found by tokenizing the same texts again.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import argparse
import cProfile
import pstats
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from sisa_scale.cli.common.console import render
from sisa_scale.data.build.engines import installed_version, open_engine
from sisa_scale.data.build.pipeline import build_dataset
from sisa_scale.data.build.texts.record_files import read_documents
from sisa_scale.data.build.units import UNIT_BYTES
from sisa_scale.data.tokenizer import load_tokenizer


def measure(engine: str, arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Build once and return the row of figures."""
    wall, cpu = time.perf_counter(), time.process_time()
    manifest = build_dataset(
        arguments.inputs,
        tokenizer=arguments.tokenizer,
        out=scratch / engine,
        engine=engine,
        deduplicate=arguments.deduplicate,
        packing="best_fit" if arguments.sequence_tokens else "concat",
        sequence_tokens=arguments.sequence_tokens,
        unit_bytes=arguments.unit_bytes,
    )
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    megabytes = sum(split.num_bytes for split in manifest.splits.values()) / 1e6
    return {
        "engine": f"{engine} {installed_version(engine)}",
        "text_mb": round(megabytes, 1),
        "cpu_seconds": round(cpu, 2),
        "mb_per_cpu_second": round(megabytes / cpu, 1),
        "mb_per_wall_second": round(megabytes / wall, 1),
        "engine_alone_mb_per_cpu_second": round(engine_alone(engine, arguments), 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


def engine_alone(engine: str, arguments: argparse.Namespace) -> float:
    """Return MB of text per CPU second of the engine with texts that are in memory: the first 20 MB."""
    texts, num_bytes = [], 0
    for document in read_documents(arguments.inputs):
        texts.append(document.text)
        num_bytes += len(document.text.encode())
        if num_bytes > arguments.engine_bytes:
            break
    loaded = load_tokenizer(arguments.tokenizer)
    opened = open_engine(engine, installed_version(engine) or "", arguments.tokenizer, loaded.sha256)
    cpu = time.process_time()
    for start in range(0, len(texts), 256):
        opened.encode_batch(texts[start : start + 256])
    return num_bytes / 1e6 / (time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--engines", nargs="+", default=["fastokens"])
    parser.add_argument("--deduplicate", action="store_true")
    parser.add_argument("--sequence-tokens", type=int, help="pack by best fit")
    parser.add_argument("--unit-bytes", type=int, default=UNIT_BYTES)
    parser.add_argument("--engine-bytes", type=int, default=20_000_000)
    parser.add_argument("--profile", action="store_true", help="print the functions that take longest")
    parser.add_argument("--json", action="store_true", dest="as_json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-build-") as scratch:
        profile = cProfile.Profile()
        if arguments.profile:
            profile.enable()
        rows = [measure(engine, arguments, Path(scratch)) for engine in arguments.engines]
        profile.disable()
    render(rows, as_json=arguments.as_json, title="sisa-scale data build, one core")
    if arguments.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
