"""The stream is the same whoever reads it, from wherever, in however many pieces."""

import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from data_sets import data_config, open_stream, serve
from hypothesis import given, settings
from hypothesis import strategies as st

from sisa_scale.config.batches import GlobalBatches, RampStage
from sisa_scale.config.data import DataConfig
from sisa_scale.config.duration import Duration
from sisa_scale.config.mixture import MixSource, MixStage
from sisa_scale.data.order.mixture import Mixture, Stage
from sisa_scale.data.order.permutation import SequenceOrder, rank_positions
from sisa_scale.data.order.plan import Planner
from sisa_scale.data.read import reader
from sisa_scale.data.read.stream import DIGEST_MODULUS, TokenStream

STEPS = 30
WORLD_SIZES = (1, 2, 3, 4, 8, 16)
RAMP = (RampStage(Duration(5, "steps"), 1 * 64), RampStage(Duration(17, "steps"), 7 * 64))  # of 12 sequences at last


@pytest.fixture(scope="module")
def url(built: Path) -> Iterator[str]:
    with serve(built) as server:
        yield server.url


def config_of(kind: str, built: Path, url: str, cache: Path, loader_workers: int) -> DataConfig:
    remote = {"cache_directory": str(cache), "cache_bytes": 1 << 20, "loader_workers": loader_workers}
    if kind == "mixture":
        mix = {"here": MixSource(path=str(built), weight=2), "there": MixSource(path=url, weight=1)}
        stages = (MixStage(Duration(11, "steps"), {"here": 1.0, "there": 3.0}),)
        return data_config(None, mix=mix, stages=stages, global_batch_ramp=RAMP, **remote)
    return data_config(url if kind == "http" else built, **remote)


@pytest.mark.parametrize("kind", ["directory", "http", "mixture"])
@pytest.mark.parametrize("loader_workers", [0, 1, 4])
def test_one_stream_for_every_world_size_and_number_of_threads(
    built: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, loader_workers: int
) -> None:
    # Some blocks in memory, the others read row by row.
    monkeypatch.setattr(reader, "MEMORY_BYTES", 20 * 257 * 2)
    stream = TokenStream(config_of(kind, built, url, tmp_path, loader_workers))
    found = {stream.sha256(0, STEPS, world_size) for world_size in WORLD_SIZES}
    expected = TokenStream(config_of("mixture" if kind == "mixture" else "directory", built, str(built), tmp_path, 0))
    assert found == {expected.sha256(0, STEPS)}


@pytest.mark.parametrize("kind", ["directory", "http", "mixture"])
def test_any_chain_of_stops_and_world_sizes(built: Path, url: str, tmp_path: Path, kind: str) -> None:
    whole = TokenStream(config_of(kind, built, url, tmp_path / "cache", 0))
    expected = [whole.batch(step, 0, 1).digest for step in range(60)]
    generator = random.Random(7)
    found: list[int] = []
    num_stops = 0
    while len(found) < 60:
        # A new life: nothing but the step is known. Batches that were read ahead die with it.
        life = TokenStream(
            config_of(kind, built, url, tmp_path / f"cache-{num_stops % 2}", generator.choice((0, 1, 4)))
        )
        world_size, stop = generator.choice(WORLD_SIZES), min(60, len(found) + generator.randint(3, 9))
        ranks = [life.batches(range(len(found), 60), rank, world_size) for rank in range(world_size)]
        for _ in range(len(found), stop):
            found.append(sum(next(rank).digest for rank in ranks) % DIGEST_MODULUS)
        for rank in ranks:
            rank.close()
        num_stops += 1
    assert num_stops > 5
    assert found == expected


def test_a_whole_epoch_by_many_ranks(built: Path) -> None:
    stream = open_stream(built)
    num = stream.sources[0].order.sequences_per_epoch
    num_steps = -(-2 * num // 12)
    seen = []
    for step in range(num_steps):
        for rank in range(5):
            plan = stream.planner.share(step, rank, 5)
            seen += list(zip(plan.epoch.tolist(), plan.block.tolist(), plan.row.tolist(), strict=True))
    for epoch in (0, 1):
        places = [place[1:] for place in seen if place[0] == epoch]
        assert len(set(places)) == len(places) == num


def test_a_ramp_reads_the_same_sequences_in_the_same_order(built: Path) -> None:
    plain, ramped = open_stream(built).planner, open_stream(built, global_batch_ramp=RAMP).planner
    expected = np.concatenate([plain.global_batch(step).row for step in range(20)])
    for world_size in (1, 3):
        steps = [ramped.share(step, rank, world_size) for step in range(STEPS) for rank in range(world_size)]
        found = np.concatenate([step.row for step in steps])
        assert found.size == 5 * 1 + 12 * 7 + 13 * 12
        assert found[:240].tolist() == expected.tolist()


@given(
    num_blocks=st.integers(1, 2_000_000),  # of 2**19 tokens: up to 10**12
    length=st.sampled_from((512, 2048, 8192)),
    tail=st.integers(0, 63),
    seed=st.integers(0, 2**64 - 1),
    world_size=st.integers(1, 4096),
    batch=st.integers(1, 8192),
    step=st.integers(0, 10**9),
)
@settings(deadline=None, max_examples=60)
def test_order_up_to_4096_ranks_and_a_trillion_tokens(
    num_blocks: int, length: int, tail: int, seed: int, world_size: int, batch: int, step: int
) -> None:
    order = SequenceOrder(num_blocks, tail, (1 << 19) // length, seed)
    batches = GlobalBatches(1, batch)
    sizes = [rank_positions(batches.positions(step), rank, world_size).size for rank in range(world_size)]
    assert sum(sizes) == batch
    assert max(sizes) - min(sizes) <= 1
    epoch, block, row = order.locate(np.arange(step * batch, (step + 1) * batch))
    places = np.stack([epoch, block, row], axis=1)
    assert len(np.unique(places, axis=0)) == batch
    planner = Planner([order], Mixture(seed, [Stage(0, (1,))]), batches)
    for rank in {0, world_size // 2, world_size - 1}:
        start = sum(sizes[:rank])
        share = planner.share(step, rank, world_size)
        assert np.stack([share.epoch, share.block, share.row], axis=1).tolist() == (
            places[start : start + sizes[rank]].tolist()
        )


def test_the_order_of_a_trillion_tokens_takes_no_memory() -> None:
    tracemalloc.start()
    order = SequenceOrder(10**12 >> 19, 17, 256, seed=1)
    planner = Planner([order], Mixture(1, [Stage(0, (1,))]), GlobalBatches(1, 4096))
    for step in (0, 10**5, 10**9):
        planner.share(step, 4095, 4096)
        planner.share(step, 0, 1)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8 << 20
