from pathlib import Path

import numpy as np
import pytest
from data_sets import data_config
from hypothesis import given, settings
from hypothesis import strategies as st

from sisa_scale.config.duration import Duration
from sisa_scale.config.mixture import MixSource, MixStage
from sisa_scale.data.order.mixture import MAX_CYCLE, Mixture, Stage, source_seed, whole_shares
from sisa_scale.data.read.sources import build_mixture
from sisa_scale.data.read.stream import TokenStream
from sisa_scale.errors import ConfigError

SEEDS = st.integers(0, 2**64 - 1)


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    num_sources, num_stages = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    share = st.tuples(*[st.integers(0, 60)] * num_sources).filter(any)
    starts = [0, *sorted(draw(st.sets(st.integers(1, 900), min_size=num_stages - 1, max_size=num_stages - 1)))]
    return Mixture(draw(SEEDS), [Stage(start, draw(share)) for start in starts])


@given(mixtures())
@settings(deadline=None, max_examples=60)
def test_every_source_is_read_in_its_own_order_without_a_gap(mixture: Mixture) -> None:
    source, index = mixture.locate(np.arange(1500))
    for number in range(mixture.num_sources):
        found = index[source == number]
        assert found.tolist() == list(range(found.size))
    for stop in (0, 1, 700, 1499, 1500):
        assert mixture.counts(stop) == tuple(np.bincount(source[:stop], minlength=mixture.num_sources))


@given(mixtures(), st.lists(st.integers(0, 10**13), max_size=20))
@settings(deadline=None, max_examples=60)
def test_a_position_does_not_depend_on_its_neighbours(mixture: Mixture, positions: list[int]) -> None:
    together = np.stack(mixture.locate(np.array(positions, dtype=np.int64)), axis=1).tolist()
    alone = [np.concatenate(mixture.locate(np.array([position]))).tolist() for position in positions]
    assert together == alone
    for position, (source, index) in zip(positions, together, strict=True):
        assert mixture.counts(position)[source] == index


@given(mixtures())
@settings(deadline=None, max_examples=20)
def test_every_cycle_holds_the_exact_shares(mixture: Mixture) -> None:
    for stage, end in zip(mixture.stages, [*(s.start for s in mixture.stages[1:]), 1500], strict=True):
        cycle = sum(stage.shares)
        for start in range(stage.start, end - cycle, cycle):
            source, _ = mixture.locate(np.arange(start, start + cycle))
            assert tuple(np.bincount(source, minlength=mixture.num_sources)) == stage.shares


def test_batches_are_mixed_like_independent_draws_or_better() -> None:
    mixture = Mixture(1, [Stage(0, (2048, 1024, 1024))])
    source, _ = mixture.locate(np.arange(64 * 4000))
    counts = np.stack([np.bincount(batch, minlength=3) for batch in source.reshape(-1, 64)])
    share = np.array([0.5, 0.25, 0.25])
    assert np.abs(counts.mean(axis=0) - 64 * share).max() < 0.3
    assert (counts.var(axis=0) < 1.1 * 64 * share * (1 - share)).all()
    assert (counts.var(axis=0) > 0.8 * 64 * share * (1 - share)).all()


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 1e3), min_size=1))
def test_shares_are_whole_and_close(weights: dict[str, float]) -> None:
    total = sum(weights.values())
    if min(weights.values()) / total < 1 / MAX_CYCLE:
        return
    shares = whole_shares(weights)
    cycle = sum(shares.values())
    assert MAX_CYCLE / 2 < cycle <= MAX_CYCLE
    assert all(abs(shares[name] / cycle - weights[name] / total) < 1 / MAX_CYCLE for name in weights)


def test_decimal_weights_are_exact() -> None:
    assert whole_shares({"web": 0.7, "books": 0.3}) == {"web": 2863, "books": 1227}
    assert whole_shares({"a": 0.55, "b": 0.3, "c": 0.1, "d": 0.05, "e": 0}) == {
        "a": 2244,
        "b": 1224,
        "c": 408,
        "d": 204,
        "e": 0,
    }
    assert whole_shares({"a": 1.0}) == {"a": 4096}
    with pytest.raises(ConfigError, match=r"data\.mix\.b: found the weight 0\.0001"):
        whole_shares({"a": 0.9999, "b": 0.0001})


def test_golden_places() -> None:
    # These numbers may never change: runs in progress and published results depend on them.
    mixture = Mixture(42, [Stage(0, (2863, 1227)), Stage(10_000, (2048, 2048))])
    places = np.stack(mixture.locate(np.array([0, 1, 2, 9_999, 10_000, 10_001, 10**12])), axis=1)
    assert places.tolist() == GOLDEN
    assert mixture.counts(10_000) == COUNTS
    assert source_seed(42, 1) == SOURCE_SEED


GOLDEN = [[0, 0], [1, 0], [0, 1], [0, 7006], [1, 2993], [1, 2994], [0, 500000002005]]
COUNTS = (7007, 2993)
SOURCE_SEED = 6717522985872898827


def mix(web: Path, books: Path, max_epochs: float | None = None) -> dict[str, MixSource]:
    return {
        "web": MixSource(path=str(web), weight=0.7),
        "books": MixSource(path=str(books), weight=0.3, max_epochs=max_epochs),
    }


def test_stages_begin_at_their_step(built: Path) -> None:
    stages = (MixStage(Duration(5, "steps"), {"web": 0.0, "books": 1.0}),)
    config = data_config(None, mix=mix(built, built), stages=stages)
    source, _ = build_mixture(config).locate(np.arange(12 * 20))
    assert 0 < source[: 12 * 5].sum() < 12 * 5
    assert (source[12 * 5 :] == 0).all()  # books come before web in the order of the names
    reordered = data_config(None, mix=dict(reversed(mix(built, built).items())), stages=stages)
    assert TokenStream(reordered).sha256(0, 8) == TokenStream(config).sha256(0, 8)


def test_caps_are_exact_and_known_before_the_run(built: Path) -> None:
    stream = TokenStream(data_config(None, mix=mix(built, built, max_epochs=2)))
    books = stream.use(0)[0]
    assert (books.source, books.num_sequences, books.available_tokens) == ("books", 0, 2 * books.tokens_per_epoch)
    last = next(step for step in range(10**6) if stream.use(step + 1)[0].num_tokens > 2 * books.tokens_per_epoch)
    stream.check_limits(last)
    with pytest.raises(ConfigError) as caught:
        stream.check_limits(last + 1)
    assert f"{books.available_tokens} tokens of it are available (2 epochs)" in str(caught.value)
    assert f"End the run after {last} steps" in str(caught.value)
    with pytest.raises(ConfigError, match=f"End the run after {last} steps"):
        stream.check_limits(10**9)


def test_what_was_read_is_what_was_planned(built: Path) -> None:
    stream = TokenStream(data_config(None, mix=mix(built, built)))
    plans = [stream.planner.global_batch(step) for step in range(300)]
    source = np.concatenate([plan.source for plan in plans])
    assert [use.num_sequences for use in stream.use(300)] == np.bincount(source).tolist()
    assert [use.epochs > 1 for use in stream.use(300)] == [True, True]
    for number, used in enumerate(stream.use(300)):
        place = np.concatenate(
            [np.stack([plan.epoch, plan.block, plan.row], axis=1)[plan.source == number] for plan in plans]
        )
        assert len(np.unique(place, axis=0)) == len(place) == used.num_sequences  # each once an epoch
        assert (np.diff(place[:, 0]) >= 0).all()
        per_epoch = np.bincount(place[:, 0])
        assert (per_epoch[:-1] == stream.sources[number].order.sequences_per_epoch).all()
