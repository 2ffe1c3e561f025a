import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from sisa_scale.data.tokenizer import END_OF_TEXT, PADDING, Tokenizer, load_tokenizer, train_tokenizer
from sisa_scale.errors import ConfigError, DataError

CHARACTERS = st.characters(exclude_categories=("Cs",))


@pytest.fixture(scope="module")
def tokenizer(tokenizer_path: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_path)


def test_special_tokens_come_first(tokenizer: Tokenizer) -> None:
    assert tokenizer.eos_id == 0
    assert tokenizer.decode([0, 1]) == END_OF_TEXT + PADDING
    assert tokenizer.vocab_size == 300


def test_every_character_round_trips(tokenizer: Tokenizer) -> None:
    @given(st.text(CHARACTERS))
    def check(text: str) -> None:
        assert tokenizer.decode(tokenizer.encode(text)) == text

    check()


@pytest.mark.parametrize("text", [END_OF_TEXT, f"a{END_OF_TEXT}b {PADDING}", f" {END_OF_TEXT}\n" * 2])
def test_text_cannot_forge_special_tokens(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert min(ids) > 1
    assert tokenizer.decode(ids) == text


def test_training_is_deterministic(texts: list[str], tmp_path: Path) -> None:
    first, second = (train_tokenizer(iter(texts), 280, tmp_path / f"{number}.json") for number in range(2))
    assert first.sha256 == second.sha256


def test_too_small_a_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 258"):
        train_tokenizer(["text"], 257, tmp_path / "tokenizer.json")


def test_rules_that_drop_or_add_tokens_are_ignored(tokenizer_path: Path, tmp_path: Path) -> None:
    content = json.loads(tokenizer_path.read_text(encoding="utf-8"))
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": END_OF_TEXT, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {END_OF_TEXT: {"id": END_OF_TEXT, "ids": [0], "tokens": [END_OF_TEXT]}},
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    text = "a whale of a storm"
    assert load_tokenizer(path).encode(text) == load_tokenizer(tokenizer_path).encode(text)


def test_bad_tokenizers_are_refused(tokenizer_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match="no such file"):
        load_tokenizer(path)
    path.write_text("{}")
    with pytest.raises(DataError, match="cannot read"):
        load_tokenizer(path)
    good = tokenizer_path.read_text(encoding="utf-8")
    path.write_text(good.replace(END_OF_TEXT, "<|stop|>"), encoding="utf-8")
    with pytest.raises(DataError, match=r"<\|endoftext\|>, </s>"):
        load_tokenizer(path)


def test_tokenizers_that_let_a_text_end_its_document_are_refused(tokenizer_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    good = tokenizer_path.read_text(encoding="utf-8")
    path.write_text(good.replace('"special": true', '"special": false'), encoding="utf-8")
    with pytest.raises(DataError, match="forge"):
        load_tokenizer(path)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({END_OF_TEXT: 0, "?": 1}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens([END_OF_TEXT])
    words.save(str(path))
    with pytest.raises(DataError, match="forge"):
        load_tokenizer(path)
