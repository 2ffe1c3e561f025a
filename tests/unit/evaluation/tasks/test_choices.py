import json
from pathlib import Path
from typing import Any

import pytest

from sisa_scale.config.tasks import CHOICE_TASKS
from sisa_scale.errors import DataError
from sisa_scale.evaluation.scoring import ItemResult
from sisa_scale.evaluation.tasks.choices import Question, choice_scores, choice_task, read_questions

PUBLISHED: dict[str, dict[str, Any]] = {
    "hellaswag": {
        "activity_label": "Baking", "ctx_a": "[header] Mix [title] the dough.", "ctx_b": "he then", "label": "1",
        "endings": ["sings [substeps] aloud.", "waits.", "runs  off.", "reads."],
    },
    "arc_easy": {
        "question": "What is wet?", "choices": {"text": ["Sand", "Rain", "Wind"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    },
    "piqa": {"goal": "Open a door", "sol1": "push it", "sol2": "eat it", "label": 0},
    "winogrande": {
        "sentence": "Ann thanked Eve because _ had helped.", "option1": "Ann", "option2": "Eve", "answer": "2",
    },
}  # fmt: skip
READ = {
    "hellaswag": Question(
        ("Baking: Mix. the dough. He then",) * 4, (" sings aloud.", " waits.", " runs off.", " reads."), 1
    ),
    "arc_easy": Question(("Question: What is wet?\nAnswer:",) * 3, (" Sand", " Rain", " Wind"), 1),
    "piqa": Question(("Question: Open a door\nAnswer:",) * 2, (" push it", " eat it"), 0),
    "winogrande": Question(("Ann thanked Eve because Ann", "Ann thanked Eve because Eve"), (" had helped.",) * 2, 1),
}


class Letters:
    """One token a character."""

    eos_id, vocab_size = 0, 256

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: Any) -> str:
        return "".join(map(chr, ids))


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", CHOICE_TASKS)
def test_published_fields_are_read(name: str, tmp_path: Path) -> None:
    assert read_questions(name, write(tmp_path / "a.jsonl", PUBLISHED[name], PUBLISHED[name])) == [READ[name]] * 2


def test_rows_that_are_ready_are_read_as_they_are(tmp_path: Path) -> None:
    ready = {"ctx": "One plus one is", "choices": [" two", " six"], "gold": 0}
    both = {"ctx_options": ["He", "She"], "target": " sang.", "gold": 1}
    assert read_questions("piqa", write(tmp_path / "a", ready)) == [
        Question(("One plus one is",) * 2, (" two", " six"), 0)
    ]
    line = json.dumps({**ready, "ctx": "One\u2028plus"}, ensure_ascii=False)  # ends a line for Unicode alone
    (tmp_path / "c").write_text(f"{line}\n\n{line}\n", encoding="utf-8")
    assert len(read_questions("piqa", tmp_path / "c")) == 2
    assert read_questions("winogrande", write(tmp_path / "b", both)) == [Question(("He", "She"), (" sang.",) * 2, 1)]


@pytest.mark.parametrize(
    "row", [[], {}, {**PUBLISHED["piqa"], "label": 2}, {"ctx": "a", "choices": ["b", ""], "gold": 0}, {"gold": 0}]
)
def test_other_rows_are_refused_with_their_line(row: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "piqa.jsonl", PUBLISHED["piqa"], row)
    with pytest.raises(DataError, match=r"piqa\.jsonl:2.*"):
        read_questions("piqa", path)


def test_a_missing_or_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        choice_task("piqa", Letters(), tmp_path)
    with pytest.raises(DataError, match="empty"):
        read_questions("piqa", write(tmp_path / "piqa.jsonl"))


def test_every_choice_is_scored_after_its_context(tmp_path: Path) -> None:
    write(tmp_path / "winogrande.jsonl", *[PUBLISHED["winogrande"]] * 3)
    task = choice_task("winogrande", Letters(), tmp_path, limit=2)
    assert len(task.items) == 4
    letters = Letters()
    assert [letters.decode(item.tokens) for item in task.items[:2]] == [
        "Ann thanked Eve because Ann had helped.", "Ann thanked Eve because Eve had helped.",
    ]  # fmt: skip
    assert [letters.decode(item.tokens[item.score_from + 1 :]) for item in task.items] == [" had helped."] * 4


def test_the_three_accuracies_differ_where_lengths_do() -> None:
    question = Question(("?", "?"), (" no", " certainly"), 1)
    # sums -4 > -6: the first; per character -4/2 < -6/9: the second; per token -4/1 < -6/2: the second
    by_sum, by_character, by_token = choice_scores("piqa", [question], [ItemResult(1, -4.0, 0), ItemResult(2, -6.0, 0)])
    assert [by_sum.value, by_character.value, by_token.value] == [0.0, 100.0, 100.0]
    by_sum, by_character, by_token = choice_scores("piqa", [question], [ItemResult(3, -7.0, 0), ItemResult(1, -6.0, 0)])
    assert [by_sum.value, by_character.value, by_token.value] == [100.0, 100.0, 0.0]


def test_without_files_the_task_says_that_it_was_skipped() -> None:
    (score,) = choice_task("piqa", Letters(), None).scores([])
    assert score.value is None
    assert "questions_directory" in score.note
