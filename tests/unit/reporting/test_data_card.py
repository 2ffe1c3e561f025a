import json
import re
from pathlib import Path

import pytest

from sisa_scale.data.build.pipeline import build_dataset
from sisa_scale.data.tokenizer import train_tokenizer
from sisa_scale.errors import DataError
from sisa_scale.reporting.data_card import write_card

NASTY = "<script>alert(1)</script> a whale & a $sea$ of storm"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    texts = [f"{NASTY} {'whale ' * (number % 50)}{number}" for number in range(200)]
    for name in ("one", "_two$"):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in [*texts, "x"])
        (tmp_path / f"{name}.jsonl").write_text(lines)
    train_tokenizer(texts, 300, tmp_path / "words.json")
    out = tmp_path / "whales"
    build_dataset(
        [tmp_path / "one.jsonl", tmp_path / "_two$.jsonl"],
        tokenizer=tmp_path / "words.json",
        out=out,
        block_tokens=256,
        heldout_fraction=0.1,
        min_characters=2,
        deduplicate=True,
        packing="best_fit",
        sequence_tokens=128,
    )
    return out


def test_the_card_says_what_is_in_the_data_set(data: Path) -> None:
    page = write_card(data).read_text(encoding="utf-8")
    statistics = json.loads((data / "statistics.json").read_text())
    tokens = sum(split["num_tokens"] for split in statistics["splits"].values())
    assert "<h1>whales</h1>" in page
    assert "<dd>200</dd>" in page
    assert "202 left out" in page
    assert f"{tokens:,}" in page
    assert "best fit, sequences of 128 tokens" in page
    assert page.count("<svg") == 4
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"https?://", page)
    assert page == write_card(data).read_text(encoding="utf-8")


def test_data_sets_without_statistics_are_refused(data: Path, tmp_path: Path) -> None:
    (data / "statistics.json").write_text("{}")
    with pytest.raises(DataError, match=r"statistics\.json: found no statistics"):
        write_card(data)
    with pytest.raises(DataError, match="no such file"):
        write_card(tmp_path / "nowhere")
