"""Peak memory of `sisa-scale data build` for inputs of growing size: it must not grow with them.

    python tools/measure_build_memory.py --tokenizer tokenizer.json --gigabytes 0.5 2 10 --scratch DIR
    python tools/measure_build_memory.py --tokenizer tokenizer.json --gigabytes 2 --form jsonl.gz --engines tokenizers

Each size is one file of English prose whose paragraphs are drawn at random, so that it is long and never the same; a
`.txt` is one document. The command runs by itself; its resident memory and that of its children are added up
every 50 ms. Needs about four times the size of the largest text under --scratch; all of it is removed.
"""

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import zstandard

from sisa_scale.cli.common.console import render
from sisa_scale.data.build.embedded import embedded_text
from sisa_scale.data.build.texts.record_files import read_documents

_CHUNK_PARAGRAPHS = 20_000
_SECONDS_BETWEEN_LOOKS = 0.05

_OPENERS: dict[str, Callable[[Path], Any]] = {
    "": lambda path: path.open("wb"),
    ".gz": lambda path: gzip.GzipFile(path, "wb", compresslevel=1),
    ".zst": lambda path: zstandard.open(path, "wb"),
}


def write_text(path: Path, num_bytes: int, seed: int = 0) -> None:
    """Write prose of about so many bytes, packed as the name says; one document, or a paragraph a line of JSON."""
    paragraphs = [text for document in read_documents([embedded_text()]) for text in document.text.split("\n\n")]
    generator = random.Random(seed)
    packing = path.suffix if path.suffix in _OPENERS else ""
    is_json = ".jsonl" in path.name
    num_written = 0
    with _OPENERS[packing](path) as stream:
        while num_written < num_bytes:
            chosen = generator.choices(paragraphs, k=_CHUNK_PARAGRAPHS)
            numbered = [f"{generator.randrange(10**9)} {text}" for text in chosen]
            lines = (json.dumps({"text": text}) for text in numbered) if is_json else (f"{text}\n" for text in numbered)
            raw = ("\n".join(lines) + "\n").encode()
            stream.write(raw)
            num_written += len(raw)


def peak_of(command: list[str]) -> tuple[int, float]:
    """Run a command; return the most resident bytes of its process tree, and its seconds."""
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    root = psutil.Process(process.pid)
    while process.poll() is None:
        resident = 0
        for each in (root, *_children(root)):
            try:
                resident += each.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, resident)
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return peak, time.perf_counter() - began


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.5, 2.0])
    parser.add_argument("--form", default="txt", help="txt or jsonl, and .gz or .zst after it")
    parser.add_argument("--engines", nargs="+", default=["fastokens", "tokenizers"])
    parser.add_argument("--scratch", type=Path, help="directory for the texts and what is built")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("options", nargs="*", help="more options of the command, after --")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for gigabytes in arguments.gigabytes:
        with tempfile.TemporaryDirectory(prefix="build-memory-", dir=arguments.scratch) as scratch:
            text = Path(scratch) / f"text.{arguments.form}"
            write_text(text, int(gigabytes * 1e9))
            for engine in arguments.engines:
                command = [
                    *(sys.executable, "-m", "sisa_scale.cli.main", "data", "build", str(text), "--engine", engine),
                    *("--tokenizer", str(arguments.tokenizer), "--out", str(Path(scratch) / engine)),
                    *arguments.options,
                ]
                peak, seconds = peak_of(command)
                rows.append(
                    {
                        "text_gb": gigabytes,
                        "form": arguments.form,
                        "engine": engine,
                        "peak_memory_mb": round(peak / 1e6),
                        "seconds": round(seconds),
                    }
                )
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    render(rows, as_json=arguments.as_json, title="sisa-scale data build, peak memory of its processes")


if __name__ == "__main__":
    main()
