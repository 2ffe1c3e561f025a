"""Tasks "needle-curve" and "needle-multikey": a fact of held-out text, asked for over many lengths.

The statement is that of the task "needle": " The secret code of {key} is {value}." "needle-curve" has one in the
text, "needle-multikey" four with different keys, of which one is asked for: to copy what followed any " is" is a guess.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sisa_scale.evaluation.tasks.haystack import Question, Questions, haystack_task
from sisa_scale.evaluation.tasks.needle import KEY_TOKENS, VALUE_TOKENS, Sentence
from sisa_scale.evaluation.tasks.task import Task

if TYPE_CHECKING:
    from sisa_scale.evaluation.suite import EvaluationResources

NUM_NEEDLES = {"needle-curve": 1, "needle-multikey": 4}
_WORDS = KEY_TOKENS + VALUE_TOKENS


def build(resources: "EvaluationResources", name: str) -> Task:
    """Return one of the two tasks of a run, by its name."""
    num_needles, sentence = NUM_NEEDLES[name], Sentence(resources.tokenizer)

    def draw(words: Sequence[int]) -> Question:
        facts = [list(words[start : start + _WORDS]) for start in range(0, num_needles * _WORDS, _WORDS)]
        needles = [[sentence.needle(fact[:KEY_TOKENS], fact[KEY_TOKENS:])] for fact in facts]
        return Question(needles, sentence.query(facts[0][:KEY_TOKENS]), facts[0][KEY_TOKENS:])

    if num_needles == 1:
        chance, note = 0.0, "chance 0 % for a guess among the words of the tokenizer"
    else:
        chance = 100 / num_needles
        note = f"chance {chance:g} % for a guess among the {num_needles} values in the text"
    return haystack_task(resources, name, Questions(draw, num_needles * _WORDS, chance, note))
