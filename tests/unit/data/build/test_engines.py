from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sisa_scale.data.build import engines
from sisa_scale.data.build.engines import FAST_ENGINES, choose_engine, installed_version, open_engine
from sisa_scale.data.tokenizer import END_OF_TEXT, Tokenizer, load_tokenizer
from sisa_scale.errors import ConfigError

INSTALLED = [name for name in FAST_ENGINES if installed_version(name)]


@pytest.fixture
def tokenizer(tokenizer_path: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_path)


@pytest.mark.parametrize("name", ["tokenizers", *FAST_ENGINES])
def test_engines_give_the_ids_of_the_reference(
    name: str, tokenizer: Tokenizer, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_REMEMBERED_CHARACTERS", 1)  # what an engine remembers is no part of what it says
    version = installed_version(name)
    if version is None:
        pytest.skip(f"{name} is not installed")
    engine = open_engine(name, version, tokenizer.path, tokenizer.sha256)
    batch = [*texts, "", f"a{END_OF_TEXT}b"]
    assert engine.encode_batch(["whale"])[0].tolist() == tokenizer.encode("whale")
    ids, offsets = engine.encode_batch(batch)
    assert offsets.dtype == np.int64
    assert [ids[a:b].tolist() for a, b in pairwise(offsets)] == tokenizer.encode_batch(batch)
    assert tokenizer.eos_id not in ids


def test_auto_takes_the_first_that_is_equal(tokenizer: Tokenizer, texts: list[str]) -> None:
    said: list[str] = []
    chosen = choose_engine("auto", tokenizer, texts, said.append)
    assert chosen.name == (INSTALLED[0] if INSTALLED else "tokenizers")
    if INSTALLED:
        assert chosen.num_verified_documents > 4000
        assert not said


@pytest.mark.skipif(not INSTALLED, reason="no fast engine is installed")
def test_an_engine_that_differs_is_not_used(
    tokenizer: Tokenizer, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(engines._Reference):
        def encode_batch(self, texts):  # type: ignore[no-untyped-def]
            ids, offsets = super().encode_batch(texts)
            return np.where(np.arange(ids.size) == ids.size - 1, ids + 1, ids), offsets

    monkeypatch.setattr(engines, "_CLASSES", engines._CLASSES | dict.fromkeys(FAST_ENGINES, Wrong))
    said: list[str] = []
    assert choose_engine("auto", tokenizer, texts, said.append).name == "tokenizers"
    assert "is not used: it differs from tokenizers in a text that begins" in said[0]
    with pytest.raises(ConfigError, match="differs from tokenizers"):
        choose_engine(INSTALLED[0], tokenizer, texts, said.append)


def test_an_engine_that_is_missing_is_named(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "installed_version", lambda name: "1" if name == "tokenizers" else None)
    said: list[str] = []
    assert choose_engine("auto", tokenizer, [], said.append).name == "tokenizers"
    assert "sisa-scale[fast-tokenizer]" in said[-1]
    with pytest.raises(ConfigError, match="not installed"):
        choose_engine("fastokens", tokenizer, [], said.append)
    with pytest.raises(ConfigError, match=r"every worker of a build uses version 0\.1"):
        open_engine("gigatoken", "0.1", tokenizer.path, "another")
    with pytest.raises(ConfigError, match="one of auto"):
        choose_engine("slow", tokenizer, [], said.append)


@pytest.mark.skipif(not INSTALLED, reason="no fast engine is installed")
def test_an_engine_that_cannot_load_is_not_used(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> engines.Engine:
        raise RuntimeError("unsupported model\nand more")

    monkeypatch.setattr(engines, "_CLASSES", engines._CLASSES | dict.fromkeys(FAST_ENGINES, refuse))
    said: list[str] = []
    assert choose_engine("auto", tokenizer, [], said.append).name == "tokenizers"
    assert "cannot use this tokenizer (unsupported model)" in said[0]
