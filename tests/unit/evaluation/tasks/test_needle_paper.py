from collections.abc import Callable
from pathlib import Path

import pytest

from sisa_scale.data.tokenizer import Tokenizer, train_tokenizer
from sisa_scale.evaluation.scoring import ItemResult, TokenScores, score_items
from sisa_scale.evaluation.tasks.needle_paper import needle_paper_task

Scorer = Callable[..., TokenScores]


def test_paper_form(tokenizer: Tokenizer, induction: Scorer) -> None:
    task = needle_paper_task(tokenizer, sequence_tokens=502)
    assert {len(item.tokens) - 1 for item in task.items} == {502}
    assert len(task.items) == 200
    first = task.items[:12]
    results = score_items(first, induction, sequence_tokens=502, batch_size=4)
    assert all(result == ItemResult(1, pytest.approx(result.log_probability), 1) for result in results)


def test_paper_form_says_why_it_is_skipped(tokenizer: Tokenizer) -> None:
    [score] = needle_paper_task(tokenizer, sequence_tokens=256).scores([])
    assert score.variant == "needle-paper"
    assert score.note == "skipped: contexts of 502 tokens do not fit in sequence_tokens = 256"


def test_paper_form_needs_five_different_answers(documents: list[str], tmp_path: Path) -> None:
    blunt = train_tokenizer(documents, 300, tmp_path / "tokenizer.json")
    [score] = needle_paper_task(blunt, sequence_tokens=512).scores([])
    assert score.note == "skipped: two answers begin with the same token under this tokenizer"
