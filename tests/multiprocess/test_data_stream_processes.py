"""Real processes read one stream: killed at any instruction, continued by another number of ranks."""

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from data_sets import Server, open_stream, serve
from processes import metrics, start_workers

from sisa_scale.data.manifest import load_manifest
from sisa_scale.data.read.stream import DIGEST_MODULUS, Batch

PROGRAM = Path(__file__).parent / "data_program.py"
STOP, SEQUENCES, LENGTH = 400, 24, 128


@pytest.fixture(scope="module")
def server(dataset: Path) -> Iterator[Server]:
    with serve(dataset) as server:
        yield server


def settings_of(location: str, cache: Path, loader_workers: int) -> dict[str, Any]:
    return {
        "path": location,
        "seed": 3,
        "sequence_tokens": LENGTH,
        "global_batch_tokens": SEQUENCES * LENGTH,
        "loader_workers": loader_workers,
        "cache_directory": str(cache),
    }


def start(settings: dict[str, Any], world_size: int, first: int, notes: Path) -> list[subprocess.Popen[bytes]]:
    notes.mkdir()
    return [
        subprocess.Popen(
            [sys.executable, PROGRAM, json.dumps(settings), *map(str, (rank, world_size, first, STOP)), notes]
        )
        for rank in range(world_size)
    ]


def read_notes(notes: Path, world_size: int) -> list[list[dict[str, Any]]]:
    """Return the notes of all ranks by step, for the steps that all of them have finished."""
    lines = [
        [line for line in (notes / f"{rank}.jsonl").read_text().splitlines(keepends=True) if line.endswith("\n")]
        if (notes / f"{rank}.jsonl").exists()
        else []
        for rank in range(world_size)
    ]
    return [[json.loads(line) for line in step] for step in zip(*lines, strict=False)]


def tokens_of(batch: Batch, part: slice) -> str:
    tokens, targets = batch.tokens_BL[part].numpy(), batch.targets_BL[part].numpy()
    return hashlib.sha256(tokens.tobytes() + targets.tobytes()).hexdigest()


@pytest.mark.parametrize("kind", ["directory", "http"])
def test_killed_ranks_are_continued_by_others(dataset: Path, server: Server, tmp_path: Path, kind: str) -> None:
    generator = random.Random(kind)
    whole = open_stream(dataset, SEQUENCES, LENGTH)
    position, lives = 0, 0
    world_sizes = [2, 4, 1, 3, 2, 3]
    while position < STOP:
        world_size = world_sizes[lives] if lives < len(world_sizes) else 2
        location = str(dataset) if kind == "directory" else server.url
        settings = settings_of(location, tmp_path / f"node-{lives % 2}", loader_workers=(1, 0, 4)[lives % 3])
        notes = tmp_path / f"life-{lives}"
        ranks = start(settings, world_size, position, notes)
        try:
            is_last = lives >= len(world_sizes) - 1
            deadline, wanted = time.monotonic() + 120, generator.randint(1, 30)
            while not is_last and time.monotonic() < deadline and len(read_notes(notes, world_size)) < wanted:
                if all(rank.poll() is not None for rank in ranks):
                    break
                time.sleep(0.01)
            for rank in ranks:
                if is_last:
                    assert rank.wait(timeout=120) == 0
                else:
                    rank.send_signal(signal.SIGKILL)
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        finished = read_notes(notes, world_size)
        for step, parts in enumerate(finished, start=position):
            expected, first = whole.batch(step, 0, 1), 0
            assert {part["step"] for part in parts} == {step}
            assert sum(part["digest"] for part in parts) % DIGEST_MODULUS == expected.digest
            for part in parts:
                assert part["tokens"] == tokens_of(expected, slice(first, first + part["sequences"]))
                first += part["sequences"]
            assert first == SEQUENCES
        position += len(finished)
        lives += 1
    assert lives >= 6


def test_the_processes_of_a_node_share_one_cache(dataset: Path, tmp_path: Path) -> None:
    with serve(dataset) as server:
        ranks = start(settings_of(server.url, tmp_path / "node", 2), 4, STOP - 250, tmp_path / "notes")
        assert [rank.wait(timeout=120) for rank in ranks] == [0] * 4
        split = load_manifest(dataset).split("train")
        num_fetched = sum(server.requests[shard.name] for shard in split.shards)
        assert num_fetched == split.num_blocks
        assert {server.requests[shard.index_name] for shard in split.shards} == {1}


def damaged_copy(dataset: Path, out: Path) -> Path:
    shutil.copytree(dataset, out)
    shard = out / "train-000000.tar"
    raw = bytearray(shard.read_bytes())
    raw[640 + 5000] ^= 1
    shard.write_bytes(raw)
    return out


def test_training_goes_on_over_a_damaged_block(dataset: Path, write_recipe: Any, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    bad = damaged_copy(dataset, tmp_path / "bad")
    mixed = [
        *("data.path=null", f"data.mix.good={{path: {dataset}, weight: 1}}"),
        f"data.mix.bad={{path: {bad}, weight: 3}}",
        "data.stages=[{from: 4 steps, weights: {good: 1, bad: 1000}}]",
        *("data.on_corrupt=skip", "checkpoint.every_steps=6", "evaluation.monitor_every_steps=0"),
    ]
    run_dir = tmp_path / "run"
    start_workers(2, [("train", recipe, [*mixed, f"run_dir={run_dir}", "total=12 steps"])])
    start_workers(4, [("train", recipe, [*mixed, f"run_dir={run_dir}", "total=24 steps"])])
    lines = metrics(run_dir)
    assert [line["step"] for line in lines] == list(range(1, 25))
    assert all(0 < line["loss"] < 20 for line in lines)
    events = [json.loads(line) for line in (run_dir / "data_events.jsonl").read_text().splitlines()]
    assert {(event["source"], event["block"]) for event in events} == {("bad", 0)}
    start_workers(1, [("train", recipe, [*mixed, f"run_dir={tmp_path}/alone", "total=24 steps"])])
    assert [line["stream_digest"] for line in metrics(tmp_path / "alone")] == [line["stream_digest"] for line in lines]
    lost = [(event["step"], row) for event in events for row in event["rows"]]
    alone = [json.loads(line) for line in (tmp_path / "alone" / "data_events.jsonl").read_text().splitlines()]
    assert sorted(lost) == sorted((event["step"], row) for event in alone for row in event["rows"])
