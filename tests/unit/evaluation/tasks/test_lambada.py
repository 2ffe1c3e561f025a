import json
import math
import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import pytest

from sisa_scale.data.tokenizer import Tokenizer
from sisa_scale.errors import DataError
from sisa_scale.evaluation.scoring import ItemResult, TokenScores, score_items
from sisa_scale.evaluation.tasks.lambada import (
    OPENAI_NUM_PASSAGES,
    cloze_passages,
    lambada_scores,
    lambada_task,
    split_last_word,
)

Scorer = Callable[..., TokenScores]


class Letters:
    """One token a character."""

    eos_id, vocab_size = 0, 256

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


def write_lambada(path: Path, texts: list[str]) -> Path:
    padding = ["a passage about a word"] * (OPENAI_NUM_PASSAGES - len(texts))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, *padding]))
    return path


def test_context_and_word_are_tokenised_apart(tmp_path: Path) -> None:
    path = write_lambada(tmp_path / "l.jsonl", ["ab c, don't"])
    [item] = lambada_task(Letters(), path=path, limit=1, expected_sha256=None).items
    assert Letters().decode(list(item.tokens)) == "ab c, don't"
    assert Letters().decode(list(item.tokens)[item.score_from + 1 :]) == " don't"


def test_a_word_is_right_only_when_all_its_tokens_are() -> None:
    results = [ItemResult(2, -1.0, 2), ItemResult(3, -5.0, 2), ItemResult(1, -0.5, 1), ItemResult(1, -1.5, 0)]
    accuracy, perplexity = lambada_scores("lambada-openai", results)
    assert accuracy.value == 50.0
    assert perplexity.value == pytest.approx(math.exp(2.0))  # per word: (1 + 5 + .5 + 1.5) / 4, not per token
    assert (accuracy.variant, perplexity.unit) == ("lambada-openai", "per word")


def test_oracle_and_uniform(tmp_path: Path, oracle: Scorer, uniform: Scorer) -> None:
    path = write_lambada(tmp_path / "l.jsonl", ["one two three", "four five"])
    task = lambada_task(Letters(), path=path, limit=2, expected_sha256=None)
    perfect = task.scores(score_items(task.items, oracle, sequence_tokens=16, batch_size=2))
    assert [score.value for score in perfect] == [100.0, 1.0]
    chance = task.scores(score_items(task.items, uniform, sequence_tokens=16, batch_size=2))
    assert chance[0].value == 0.0
    assert chance[1].value == pytest.approx(64 ** ((6 + 5) / 2))


def test_the_published_file_is_checked(tmp_path: Path) -> None:
    path = write_lambada(tmp_path / "l.jsonl", [])
    with pytest.raises(DataError, match="SHA-256"):
        lambada_task(Letters(), path=path)
    path.write_text('{"text": "a b"}\n')
    with pytest.raises(DataError, match=r"1 passages.*5153"):
        lambada_task(Letters(), path=path)
    with pytest.raises(DataError, match="no such file"):
        lambada_task(Letters(), path=tmp_path / "absent")


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = write_lambada(tmp_path / "l.jsonl", [])
    lines = path.read_text().splitlines()
    lines[1] = '{"txt": 1}'
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"l\.jsonl:2"):
        lambada_task(Letters(), path=path, expected_sha256=None)


@pytest.mark.parametrize("text", ["word", "ends with space ", " word"])
def test_a_passage_needs_a_context_and_a_word(text: str) -> None:
    with pytest.raises(DataError, match="passage 3"):
        split_last_word(text, "passage 3")


def test_cloze_passages_keep_their_rules(documents: list[str]) -> None:
    passages = list(cloze_passages(documents))
    assert len(passages) > 20
    for passage in passages:
        context, word = split_last_word(passage, "passage")
        *earlier, last = re.split(r"(?<=\.) ", context)
        assert re.fullmatch(r" [A-Za-z]{4,}", word)
        assert re.search(rf"\b{word[1:]}\b", " ".join(earlier))
        assert not re.search(rf"\b{word[1:]}\b", last)
        assert 40 <= len(passage.split()) <= 120
        assert 2 <= len(earlier) < 8
        assert sum(passage in document for document in documents) == 1


def test_cloze_is_deterministic_and_takes_documents_in_turn(documents: list[str]) -> None:
    passages = list(cloze_passages(documents))
    assert passages == list(cloze_passages(documents))
    owners = [next(i for i, text in enumerate(documents) if passage in text) for passage in passages]
    assert owners[: len(documents)] == list(range(len(documents)))
    positions = [documents[owner].index(passage) for passage, owner in zip(passages, owners, strict=True)]
    for document in range(len(documents)):
        starts = [start for start, owner in zip(positions, owners, strict=True) if owner == document]
        assert starts == sorted(set(starts))


def test_quotation_and_paragraphs() -> None:
    filler = "There was a long walk beside the water and nobody spoke a single word of it at all."
    text = f'Rain fell on Marlow again.\n\n{filler} {filler}\n"Then we must go at once to see old Marlow." He left.'
    [passage] = islice(cloze_passages([text]), 2)
    assert passage.startswith("Rain fell")
    assert passage.endswith("see old Marlow")


def test_the_score_names_the_cloze_set(tokenizer: Tokenizer, documents: list[str], oracle: Scorer) -> None:
    task = lambada_task(tokenizer, documents=documents, limit=7)
    scores = task.scores(score_items(task.items, oracle, sequence_tokens=64, batch_size=4))
    assert {score.variant for score in scores} == {"cloze-heldout"}
    assert [score.num_items for score in scores] == [7, 7]


def test_text_without_passages_is_reported_as_skipped(tokenizer: Tokenizer) -> None:
    [score] = lambada_task(tokenizer, documents=["Too short."]).scores([])
    assert score.value is None
    assert score.note.startswith("skipped: the held-out text has no passage")


def test_layout_is_not_prose() -> None:
    filler = "There was a long walk beside the water and nobody spoke a single word of it at all."
    text = f"Rain fell on Marlow again. {filler} {filler} Then we must go at once to see old Marlow."
    assert len(list(cloze_passages([text]))) == 1
    assert list(cloze_passages([text.replace("again. ", "again.\n\n    ")])) == []
