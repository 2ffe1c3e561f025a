import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sisa_scale.data.build.pipeline import build_dataset
from sisa_scale.data.tokenizer import train_tokenizer

BLOCK_TOKENS = 256
_SENTENCE = "the a sea ship éclair naïve 鯨 whale of storm sail with and harbour wind — night lamp don't I'll 1851 🐳"


@pytest.fixture(scope="session")
def texts() -> list[str]:
    generator = random.Random(0)
    return [" ".join(generator.choices(_SENTENCE.split(), k=generator.randint(20, 200))) + "\n" for _ in range(150)]


@pytest.fixture(scope="session")
def corpus(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer_path(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tokenizer(texts[:50], 300, tmp_path_factory.mktemp("tokenizer") / "words.json").path


@pytest.fixture(scope="session")
def built(corpus: Path, tokenizer_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of many blocks and several shards. Shared: do not change it, use `dataset` for that."""
    out = tmp_path_factory.mktemp("built") / "dataset"
    build_dataset(
        [corpus],
        tokenizer=tokenizer_path,
        out=out,
        block_tokens=BLOCK_TOKENS,
        blocks_per_shard=7,
        heldout_fraction=0.1,
    )
    return out


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of `built` to damage."""
    yield shutil.copytree(built, tmp_path / "dataset")


@pytest.fixture
def flip_bit() -> Callable[[Path, int], None]:
    def flip(path: Path, offset: int) -> None:
        raw = bytearray(path.read_bytes())
        raw[offset] ^= 1
        path.write_bytes(raw)

    return flip
