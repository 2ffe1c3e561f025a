"""Task "variable-tracking": what a thing holds that was said to be as another one, which was said to be as a third.

Four chains of statements stand in held-out text, each in its order: " The box {a} holds {value}.", " The box {b} is as
the box {a}.", " The box {c} is as the box {b}." The query is " So the box {c} holds". The value stands beside `a`, so
an answer takes two steps from name to name; copying what followed a like place is a guess among four.

RULER asks for the names of all variables of a value; here the value is asked for, since then one answer is right.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from sisa_scale.evaluation.tasks.haystack import Question, Questions, haystack_task
from sisa_scale.evaluation.tasks.needle import VALUE_TOKENS
from sisa_scale.evaluation.tasks.task import Task

if TYPE_CHECKING:
    from sisa_scale.evaluation.suite import EvaluationResources

TASK = "variable-tracking"
NUM_CHAINS, NUM_STEPS = 4, 2
_WORDS = 1 + NUM_STEPS + VALUE_TOKENS


def build(resources: "EvaluationResources", name: str) -> Task:
    """Return the task of a run."""
    encode = resources.tokenizer.encode
    the_box, holds, is_as, end, so = (
        encode(text) for text in (" The box", " holds", " is as the box", ".", " So the box")
    )

    def chain(words: Sequence[int]) -> list[list[int]]:
        names, value = list(words[: 1 + NUM_STEPS]), list(words[1 + NUM_STEPS :])
        copies = [[*the_box, after, *is_as, before, *end] for before, after in pairwise(names)]
        return [[*the_box, names[0], *holds, *value, *end], *copies]

    def draw(words: Sequence[int]) -> Question:
        parts = [words[start : start + _WORDS] for start in range(0, NUM_CHAINS * _WORDS, _WORDS)]
        asked = parts[0]
        return Question([chain(part) for part in parts], [*so, asked[NUM_STEPS], *holds], list(asked[1 + NUM_STEPS :]))

    chance = 100 / NUM_CHAINS
    note = f"chance {chance:g} % for a guess among the {NUM_CHAINS} values in the text"
    return haystack_task(resources, name, Questions(draw, NUM_CHAINS * _WORDS, chance, note))
