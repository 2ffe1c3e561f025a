from pathlib import Path

import numpy as np
import pytest
from data_sets import data_config, open_stream, reader_of

from sisa_scale.config.mixture import MixSource
from sisa_scale.data.build.pipeline import build_dataset
from sisa_scale.data.manifest import load_manifest
from sisa_scale.data.read.heldout import read_heldout
from sisa_scale.data.tokenizer import train_tokenizer
from sisa_scale.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def whole(corpus: Path, tokenizer_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set without a held-out split."""
    out = tmp_path_factory.mktemp("whole") / "dataset"
    build_dataset([corpus], tokenizer=tokenizer_path, out=out, block_tokens=512, heldout_fraction=0)
    return out


@pytest.fixture(scope="module")
def packed(corpus: Path, tokenizer_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose documents are packed into sequences of 64 tokens, with padding."""
    out = tmp_path_factory.mktemp("packed") / "dataset"
    build_dataset(
        [corpus],
        tokenizer=tokenizer_path,
        out=out,
        block_tokens=256,
        heldout_fraction=0.1,
        packing="best_fit",
        sequence_tokens=64,
    )
    return out


def mix(**sources: tuple[Path, float]) -> dict[str, MixSource]:
    return {name: MixSource(path=str(path), weight=weight) for name, (path, weight) in sources.items()}


def test_sources_give_in_proportion_to_their_weights(built: Path, packed: Path, whole: Path) -> None:
    config = data_config(None, mix=mix(a=(built, 3), b=(packed, 1), c=(whole, 5), d=(built, 0)))
    found = read_heldout(config, 64, 8)
    one, two = (read_heldout(data_config(path), 64, 8).sequences for path in (built, packed))
    assert np.array_equal(found.sequences, np.concatenate([one[:6], two[:2]]))
    splits = [load_manifest(path).split("heldout") for path in (built, packed)]
    expected = np.average([split.num_bytes / split.num_tokens for split in splits], weights=[6, 2])
    assert found.bytes_per_token == pytest.approx(expected)
    assert read_heldout(config, 64, 1).sequences.shape == (1, 65)


def test_a_mixture_without_anything_held_out_is_refused(built: Path, whole: Path) -> None:
    with pytest.raises(DataError, match="no split 'heldout'"):
        read_heldout(data_config(None, mix=mix(a=(whole, 1))), 64, 8)
    with pytest.raises(DataError, match="no source with a held-out split and a weight above 0"):
        read_heldout(data_config(None, mix=mix(a=(built, 0), b=(whole, 1))), 64, 8)


@pytest.mark.parametrize("documents", ["joined", "separate"])
def test_padding_is_no_target(packed: Path, documents: str) -> None:
    stream = open_stream(packed, documents=documents)
    num_padding = 0
    for step in range(40):
        batch = stream.batch(step, 0, 1)
        tokens, targets = batch.tokens_BL, batch.targets_BL
        is_pad = is_padding(tokens.numpy())
        assert (targets.numpy()[:, :-1][is_pad[:, 1:]] == -100).all()
        assert (targets.numpy()[is_pad] == -100).all()  # nothing is learnt from padding either
        num_padding += int(is_pad.sum())
        if documents == "joined":
            assert (targets == -100).sum() <= is_pad.sum() + len(tokens)
    assert num_padding > 20


def test_packed_rows_are_read_at_their_own_length_alone(packed: Path) -> None:
    with pytest.raises(ConfigError, match="packed into rows of that length"):
        open_stream(packed, sequence_tokens=open_stream(packed).config.sequence_tokens // 2)


def is_padding(tokens: np.ndarray) -> np.ndarray:
    is_pad = np.zeros(tokens.shape, dtype=bool)
    is_pad[:, 1:] = (tokens[:, 1:] == 0) & (tokens[:, :-1] == 0)
    return is_pad


def test_padding_is_masked_in_its_own_source_alone(built: Path, packed: Path) -> None:
    stream = open_stream(None, mix=mix(a=(built, 1), b=(packed, 1)))
    plain = open_stream(None, mix=mix(a=(built, 1), b=(packed, 1)))
    for step in range(20):
        batch, plan = stream.batch(step, 0, 1), plain.planner.global_batch(step)
        is_masked = (batch.targets_BL == -100).any(dim=1).numpy()
        assert not is_masked[plan.source == 0].any()
    assert reader_of(packed).num_blocks > 1


def test_sources_of_other_tokenizers_do_not_mix(built: Path, corpus: Path, texts: list[str], tmp_path: Path) -> None:
    other = train_tokenizer(texts[:50], 280, tmp_path / "other.json").path
    build_dataset([corpus], tokenizer=other, out=tmp_path / "data", block_tokens=256, heldout_fraction=0.1)
    with pytest.raises(DataError, match="all sources of a mixture have one tokenizer"):
        open_stream(None, mix=mix(a=(built, 1), b=(tmp_path / "data", 1)))
