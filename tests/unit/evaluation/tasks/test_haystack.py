"""The tasks of retrieval over many lengths: solved by reading, at the chance floor by guessing among what is there."""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sisa_scale.data.tokenizer import Tokenizer
from sisa_scale.evaluation.score import Score
from sisa_scale.evaluation.scoring import TokenScores
from sisa_scale.evaluation.suite import EvaluationResources, run_suite
from sisa_scale.evaluation.tasks.needle import VALUE_TOKENS

Scorer = Callable[..., TokenScores]
TASKS = ("needle-curve", "needle-multikey", "variable-tracking")
CODE = re.compile(r" The secret code of((?: \w+){2}) is((?: \w+){4})\.")
HOLDS, COPY = re.compile(r" The box (\w+) holds((?: \w+){4})\."), re.compile(r" The box (\w+) is as the box (\w+)\.")
ASKED = re.compile(r".*(?: The secret code of((?: \w+){2}) is| So the box (\w+) holds)", re.DOTALL)


@pytest.fixture
def resources(tokenizer: Tokenizer, heldout_sequences: np.ndarray) -> EvaluationResources:
    """Lengths of 32 (too short for any), 256 (a pass), 512 and 768 tokens; 4096 is beyond what the model accepts."""
    return EvaluationResources(
        tokenizer, heldout_sequences, [], 4.0, 5.0, 256,
        num_needle_items=20, longest_tokens=1024, context_multiples=(0.125, 1, 2, 3, 16),
    )  # fmt: skip


class Reader:
    """Reads the text of an item as a person would, and answers with `choose` among the values found."""

    def __init__(self, tokenizer: Tokenizer, choose: Callable[[dict[str, str], str], str]) -> None:
        self.tokenizer, self.choose, self.shapes = tokenizer, choose, list[torch.Size]()

    def __call__(self, tokens_BL: Tensor, targets_BL: Tensor) -> TokenScores:
        self.shapes.append(tokens_BL.shape)
        is_greedy_BL = torch.zeros_like(targets_BL, dtype=torch.bool)
        for row, tokens in enumerate(tokens_BL.tolist()):
            for position in self._queries(tokens):
                text = self.tokenizer.decode(tokens[: position + 1])
                answer = self.tokenizer.encode(self._answer(text))
                told = targets_BL[row, position : position + VALUE_TOKENS].tolist()
                for offset, (wanted, said) in enumerate(zip(told, answer, strict=False)):
                    is_greedy_BL[row, position + offset] = wanted == said
        return TokenScores(torch.where(is_greedy_BL, -0.1, -9.0), is_greedy_BL)

    def _queries(self, tokens: list[int]) -> Iterator[int]:
        """Yield where an item's query ends: the last link before its padding."""
        links = [self.tokenizer.encode(word)[-1] for word in (" is", " holds")]
        ends = [position for position, token in enumerate(tokens) if token in links]
        if any(tokens):
            yield ends[-1]

    def _answer(self, text: str) -> str:
        values = dict(CODE.findall(text)) | dict(HOLDS.findall(text))
        asked = next(filter(None, ASKED.fullmatch(text).groups()))  # type: ignore[union-attr]
        copies = dict(COPY.findall(text))
        while asked not in values and asked in copies:
            asked = copies[asked]
        return self.choose(values, asked)


def by_metric(scores: list[Score]) -> dict[tuple[str, str], Score]:
    return {(score.task, score.metric): score for score in scores}


def test_who_reads_the_text_has_100_percent_at_every_length(resources: EvaluationResources) -> None:
    reader = Reader(resources.tokenizer, lambda values, asked: values[asked])  # type: ignore[arg-type]
    found = by_metric(run_suite(TASKS, reader, resources, batch_size=8))
    for task in TASKS:
        measured = {metric: score.value for (name, metric), score in found.items() if name == task}
        assert measured.pop("chance") == (0.0 if task == "needle-curve" else 25.0)
        assert measured == {"exact_match": 100, "exact_match_256": 100, "exact_match_512": 100, "exact_match_768": 100,
                            "exact_match_32": None, "exact_match_4096": None}  # fmt: skip
        assert "filler" in found[task, "exact_match_32"].note
        assert "model.max_length_tokens = 1024; set it to 4096" in found[task, "exact_match_4096"].note
        assert all(found[task, f"exact_match_{length}"].standard_error for length in (256, 512, 768))
    # Memory is bounded: longer items come in passes of no more tokens than the others have.
    assert set(reader.shapes) == {torch.Size(shape) for shape in ((8, 256), (4, 512), (2, 768))}


def test_a_guess_among_the_values_is_at_the_chance_floor(resources: EvaluationResources) -> None:
    draw = random.Random(3)
    guess = Reader(resources.tokenizer, lambda values, asked: draw.choice(list(values.values())))  # type: ignore[arg-type]
    many = replace(resources, num_needle_items=200, context_multiples=(1, 2))
    found = by_metric(run_suite(TASKS[1:], guess, many, batch_size=8))
    for (_, metric), score in found.items():
        if metric != "chance":
            assert score.value is not None and score.standard_error is not None
            assert abs(score.value - 25) < 2.5 * score.standard_error


def test_copying_finds_needles_and_tracks_no_variable(
    resources: EvaluationResources, induction: Scorer, uniform: Scorer
) -> None:
    few = replace(resources, num_needle_items=12, context_multiples=(1,))
    found = by_metric(run_suite(TASKS, induction, few, batch_size=8))
    assert [found[task, "exact_match"].value for task in TASKS[:2]] == [100.0, 100.0]
    assert (found["variable-tracking", "exact_match"].value or 0) < 45  # the value that was said last: a guess
    found = by_metric(run_suite(TASKS, uniform, few, batch_size=8))
    assert [found[task, "exact_match"].value for task in TASKS] == [0.0, 0.0, 0.0]


def test_items_depend_on_the_seed_the_task_and_the_length_alone(resources: EvaluationResources) -> None:
    def tokens(seed: int, task: str, multiples: tuple[float, ...]) -> list[list[int]]:
        built = replace(resources, seed=seed, num_needle_items=4, context_multiples=multiples).task(task)
        return [list(item.tokens) for item in built.items]

    for task in TASKS:
        assert tokens(1, task, (1, 2)) == tokens(1, task, (2, 1))
        assert tokens(1, task, (1, 2))[4:] == tokens(1, task, (2,))
        assert tokens(1, task, (2,)) != tokens(2, task, (2,))
        assert {len(item) for item in tokens(1, task, (2,))} == {512 + 1}  # the last token is a target only


def test_the_fact_stands_at_every_depth(resources: EvaluationResources) -> None:
    opening = resources.tokenizer.encode(" The secret code of")
    items = [list(item.tokens) for item in replace(resources, context_multiples=(2,)).task("needle-curve").items]
    starts = [next(i for i in range(512) if item[i : i + len(opening)] == opening) for item in items]
    assert starts == sorted(starts) and starts[0] < 25 and starts[-1] > 420


def test_too_few_words_skip_the_task(resources: EvaluationResources) -> None:
    [score] = replace(resources, heldout_sequences=np.full((9, 129), 3)).task("variable-tracking").scores([])
    assert "single-token words" in score.note
