"""Measure the loader on this machine: speed against WebDataset and memmap, time to the first batch, memory, shuffling.

    python tools/benchmark_data.py --scratch /tmp/benchmark

The corpus is made up: one real shard of random tokens, and data sets of any size whose shards are links to it. All
rates are per CPU second of one process, all ratios are taken in one run. Each part runs in a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from sisa_scale.cli.common.console import announce, console, render
from sisa_scale.config.data import DataConfig
from sisa_scale.config.mixture import MixSource
from sisa_scale.data.manifest import Manifest, SplitInfo, TokenizerInfo
from sisa_scale.data.order.mixture import Mixture, Stage
from sisa_scale.data.order.permutation import SequenceOrder
from sisa_scale.data.read.stream import TokenStream
from sisa_scale.data.shards import SplitWriter

BLOCK_TOKENS, BLOCKS_PER_SHARD, LENGTH, VOCAB_SIZE = 1 << 19, 128, 2048, 50_000
PARTS = ("speed", "mixture", "resume", "memory", "shuffle")


def write_shard(scratch: Path) -> Path:
    """Write the shard that all data sets are made of, and its tokens as one flat file."""
    directory = scratch / "shard"
    if not (directory / "tokens.bin").exists():
        directory.mkdir(parents=True, exist_ok=True)
        tokens = np.random.default_rng(0).integers(1, VOCAB_SIZE, BLOCK_TOKENS * BLOCKS_PER_SHARD + 1, dtype=np.uint16)
        writer = SplitWriter(directory, "train", "<u2", BLOCK_TOKENS, BLOCKS_PER_SHARD)
        writer.add(tokens)
        (info,) = writer.close()
        _manifest(tokens.size, (info,)).save(directory)
        tokens.tofile(directory / "tokens.bin")
    return directory


def link_dataset(scratch: Path, num_tokens: int) -> Path:
    """Make a data set of at least `num_tokens` tokens whose shards are links to the one that was written."""
    from dataclasses import replace

    from sisa_scale.data.manifest import read_manifest

    shard = write_shard(scratch)
    num_shards = -(-num_tokens // (BLOCK_TOKENS * BLOCKS_PER_SHARD))
    out = scratch / f"linked-{num_shards}"
    if not out.exists():
        (info,) = read_manifest(shard).split("train").shards
        infos = tuple(replace(info, name=f"train-{number:06d}.tar") for number in range(num_shards))
        out.mkdir()
        for each in infos:
            (out / each.name).hardlink_to(shard / info.name)
            (out / each.index_name).hardlink_to(shard / info.index_name)
        _manifest(BLOCK_TOKENS * BLOCKS_PER_SHARD * num_shards + 1, infos).save(out)
    return out


def _manifest(num_tokens: int, shards: tuple[Any, ...]) -> Manifest:
    split = SplitInfo(1, num_tokens, 0, BLOCKS_PER_SHARD * len(shards), 0.0, shards)
    tokenizer = TokenizerInfo("tokenizer.json", "", VOCAB_SIZE, "none")
    return Manifest("<u2", BLOCK_TOKENS, 0, 0, 0.0, tokenizer, (), {"train": split})


def open_stream(directory: Path, sequences: int, **settings: Any) -> TokenStream:
    """Open a data set with batches of so many sequences."""
    values = {"loader_workers": 0, "sequence_tokens": LENGTH, "global_batch_tokens": sequences * LENGTH} | settings
    return TokenStream(DataConfig(path=str(directory), **values))


def cpu_rates(readers: dict[str, Callable[[], int]], rounds: int = 5) -> dict[str, float]:
    """Return the median tokens per CPU second of every reader, taken in turns; a reader returns the tokens it read."""
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, read in readers.items():
            started = time.process_time()
            num_tokens = read()
            rates[name].append(num_tokens / (time.process_time() - started))
    return {name: statistics.median(values) for name, values in rates.items()}


def speed(scratch: Path, num_steps: int) -> list[dict[str, Any]]:
    """Compare the loader with stock WebDataset and with numpy on the same tokens, batches of 64 sequences."""
    import torch
    import webdataset

    directory, batch = write_shard(scratch), 64
    num = num_steps * batch
    flat = np.memmap(directory / "tokens.bin", dtype="<u2", mode="r")
    samples = scratch / f"samples-{num}.tar"
    if not samples.exists():
        with tarfile.open(samples, "w") as archive:
            for number in range(num):
                data = flat[number * LENGTH : (number + 1) * LENGTH + 1].tobytes()
                member = tarfile.TarInfo(f"{number:08d}.bin")
                member.size = len(data)
                archive.addfile(member, BytesIO(data))
    rows = np.random.default_rng(1).permutation(flat.size // LENGTH)[:num] * LENGTH

    def tensors(tokens_BM: np.ndarray) -> None:
        wide = tokens_BM.astype(np.int64)
        torch.from_numpy(wide[:, :-1].copy()), torch.from_numpy(wide[:, 1:].copy())

    def webdataset_rows() -> int:
        return sum(
            np.frombuffer(s["bin"], "<u2").size - 1 for s in webdataset.WebDataset(str(samples), shardshuffle=False)
        )

    def webdataset_batches() -> int:
        pipeline = webdataset.WebDataset(str(samples), shardshuffle=False).shuffle(1000)
        pipeline = pipeline.map(lambda sample: np.frombuffer(sample["bin"], "<u2")).batched(
            batch, collation_fn=np.stack
        )
        for tokens_BM in pipeline:
            tensors(tokens_BM)
        return num * LENGTH

    def memmap_rows() -> int:
        return sum(np.array(flat[start : start + LENGTH + 1]).size - 1 for start in rows.tolist())

    def memmap_batches() -> int:
        for first in range(0, num, batch):
            tensors(np.stack([flat[start : start + LENGTH + 1] for start in rows[first : first + batch].tolist()]))
        return num * LENGTH

    def memmap_gather() -> int:
        windows = np.lib.stride_tricks.sliding_window_view(flat, LENGTH + 1)
        for first in range(0, num, batch):
            tensors(windows[rows[first : first + batch]])
        return num * LENGTH

    def ours(num_threads: int) -> Callable[[], int]:
        def read() -> int:
            stream = open_stream(directory, batch, loader_workers=num_threads)  # opening and checking included
            return sum(each.tokens_BL.numel() for each in stream.batches(range(num_steps), 0, 1))

        return read

    rates = cpu_rates(
        {
            "webdataset, raw members": webdataset_rows,
            "webdataset, raw members, shuffled, int64 batches": webdataset_batches,
            "memmap, rows one by one, 16 bit": memmap_rows,
            "memmap, rows one by one, int64 batches": memmap_batches,
            "memmap, one gather a batch, int64 batches": memmap_gather,
            "this loader, int64 batches, 0 threads": ours(0),
            "this loader, int64 batches, 1 thread": ours(1),
        }
    )
    own, raw = rates["this loader, int64 batches, 0 threads"], rates["webdataset, raw members"]
    return [
        {"reader": name, "Mtok/s a core": rate / 1e6, "of webdataset": rate / raw, "loader / it": own / rate}
        for name, rate in rates.items()
    ]


def mixture(scratch: Path, num_steps: int) -> list[dict[str, Any]]:
    """Measure the arithmetic alone, and the loader on four sources."""
    directory, batch = write_shard(scratch), 512
    weights = (0.55, 0.3, 0.1, 0.05)
    mix = {f"s{n}": MixSource(path=str(directory), weight=w) for n, w in enumerate(weights)}
    settings: dict[str, Any] = {"sequence_tokens": LENGTH, "global_batch_tokens": batch * LENGTH, "loader_workers": 0}
    rows = []
    for name, config in (
        ("one source", DataConfig(path=str(directory), **settings)),
        ("four sources", DataConfig(mix=mix, **settings)),
    ):
        stream = TokenStream(config)

        def plan(stream: TokenStream = stream) -> int:
            return sum(stream.planner.share(step, 0, 8).position.size for step in range(10**6, 10**6 + 4096)) * LENGTH

        def read(stream: TokenStream = stream) -> int:
            return sum(b.tokens_BL.numel() for b in stream.batches(range(max(8, num_steps // 8)), 0, 1))

        rates = cpu_rates({"plan": plan, "read": read})
        nanoseconds = 1e9 * LENGTH / rates["plan"]
        rows.append({"sources": name, "order only, ns a sequence": nanoseconds, "Mtok/s": rates["read"] / 1e6})
    return rows


def resume(scratch: Path) -> list[dict[str, Any]]:
    """Measure the time from nothing to the first batch, at several places of 10^12 tokens, in new processes."""
    directory = link_dataset(scratch, 10**12)
    rows = []
    for sequences in (64, 512):
        total_steps = 10**12 // (sequences * LENGTH)
        for step in (0, total_steps // 2, total_steps - 1, 7 * total_steps):
            code = (
                "import time, sys, torch, numpy, xxhash, sisa_scale.data.read.stream\n"
                "from pathlib import Path\nsys.path.insert(0, sys.argv[1])\nimport benchmark_data as b\n"
                "t = time.perf_counter(), time.process_time()\n"
                "s = b.open_stream(Path(sys.argv[2]), int(sys.argv[3]))\n"
                "u = time.perf_counter()\ns.batch(int(sys.argv[4]), 0, 1)\n"
                "print(u - t[0], time.perf_counter() - t[0], time.process_time() - t[1])\n"
            )
            arguments = [str(Path(__file__).parent), str(directory), str(sequences), str(step)]
            runs = [
                [
                    float(x)
                    for x in subprocess.run(
                        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
                    ).stdout.split()
                ]
                for _ in range(3)
            ]
            opening, first, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
            rows.append({"batch": sequences, "step": step, "open s": opening, "first batch s": first, "CPU s": cpu})
    return rows


def memory(scratch: Path, num_steps: int) -> list[dict[str, Any]]:
    """Measure resident memory after many steps on data sets of three sizes, in new processes."""
    rows = []
    for num_tokens in (10**9, 10**11, 10**12):
        directory = link_dataset(scratch, num_tokens)
        code = (
            "import sys, torch, xxhash\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[1])\n"
            "import benchmark_data as b\nbefore = b.resident()\n"
            "s = b.open_stream(Path(sys.argv[2]), 64)\nopened = b.resident()\n"
            "for each in s.batches(range(0, int(sys.argv[3]) * 997, 997), 0, 1): pass\n"
            "print(before, opened, b.resident())\n"
        )
        arguments = [str(Path(__file__).parent), str(directory), str(num_steps)]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        before, opened, after = (int(x) / 1e6 for x in done.stdout.split())
        shards = len(list(directory.glob("*.tar")))
        rows.append(
            {"tokens": num_tokens, "shards": shards, "opening MB": opened - before, "reading MB": after - opened}
        )
    return rows


def resident() -> int:
    """Return the resident memory of this process in bytes, file pages included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def shuffle() -> list[dict[str, Any]]:
    """Measure how far the order is from a uniform shuffle: neighbours, and kinds of text and sources in a batch.

    The corpus of 2.1 billion tokens is ordered by origin: ten kinds of text one after the other, as files are when they
    are built. Only order is measured; nothing is read.
    """
    num_blocks, rows_per_block, batch = 4000, 256, 512
    order = SequenceOrder(num_blocks, 0, rows_per_block, seed=1)
    num = order.sequences_per_epoch
    _, block, row = order.locate(np.arange(num))
    place = block * rows_per_block + row
    position = np.argsort(place)
    kinds = place * 10 // num
    counts = np.stack([np.bincount(part, minlength=10) for part in kinds[: num // batch * batch].reshape(-1, batch)])
    chi_square = ((counts - batch * 0.1) ** 2 / (batch * 0.1)).sum(axis=1).mean()
    mixed, _ = Mixture(1, [Stage(0, (2863, 1227))]).locate(np.arange(batch * 2000))
    books = mixed.reshape(-1, batch).sum(axis=1)
    share = 1227 / 4090
    return [
        _measure("neighbours in the stream: mean distance in the corpus", np.abs(np.diff(place)).mean() / num, 1 / 3),
        _measure("neighbours in the stream: of one block", (np.diff(block) == 0).mean(), 1 / num_blocks),
        _measure("neighbours in the stream: correlation of places", np.corrcoef(place[:-1], place[1:])[0, 1], 0),
        _measure("512 apart in the stream: correlation of places", np.corrcoef(place[:-512], place[512:])[0, 1], 0),
        _measure(
            "neighbours in the corpus: mean distance in the stream", np.abs(np.diff(position)).mean() / num, 1 / 3
        ),
        _measure(
            "neighbours in the corpus: within one batch", (np.abs(np.diff(position)) < batch).mean(), 2 * batch / num
        ),
        _measure("kinds in a batch: variance of a count", counts.var(axis=0).mean(), batch * 0.1 * 0.9),
        _measure("kinds in a batch: chi-square, 9 degrees of freedom", chi_square, 9),
        _measure("kinds in 131,072 in a row: variance of a count / 131,072", _window_variance(kinds), 0.09),
        _measure("sources of a mixture in a batch: variance of a count", books.var(), batch * share * (1 - share)),
    ]


def _measure(what: str, found: float, uniform: float) -> dict[str, Any]:
    return {"measure": what, "here": float(found), "uniform shuffle or multinomial": float(uniform)}


def _window_variance(kinds: np.ndarray) -> float:
    """Return the variance of a kind's count in a window of 131,072, over the window: 0.09 for independent draws."""
    size = 131_072
    windows = kinds[: kinds.size // size * size].reshape(-1, size)
    counts = np.stack([np.bincount(window, minlength=10) for window in windows])
    return float(((counts - size / 10) ** 2).mean() / size)


def main() -> None:
    """Measure the parts that are asked for and print their tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help=f"of {', '.join(PARTS)}; by default all")
    parser.add_argument(
        "--scratch", type=Path, required=True, help="directory for about 300 MB of made-up shards, kept"
    )
    parser.add_argument("--steps", type=int, default=512, help="batches that are read")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    results = {}
    for part in arguments.parts or PARTS:
        if part == "shuffle":
            rows = shuffle()
        elif part == "resume":
            rows = resume(arguments.scratch)
        else:
            rows = {"speed": speed, "mixture": mixture, "memory": memory}[part](arguments.scratch, arguments.steps)
        results[part] = rows
        if not arguments.json:
            render(rows, as_json=False, title=part)
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        announce("rates are per CPU second of one process; run it on an idle machine")
        console.print()


if __name__ == "__main__":
    main()
