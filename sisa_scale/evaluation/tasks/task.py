"""What every task is made of: items that are built once, and a rule that turns their results into scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sisa_scale.evaluation.score import Score
from sisa_scale.evaluation.scoring import Item, ItemResult


class TextTokenizer(Protocol):
    """The part of a tokenizer that evaluation needs."""

    @property
    def eos_id(self) -> int:
        """Id of the end-of-document token."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """One task, ready to be scored as often as a run likes.

    summarize: maps the results of `items`, in their order, to scores; never called when there are no items.
    skipped: scores of the parts that could not be built, each with its reason.
    """

    items: list[Item]
    summarize: Callable[[Sequence[ItemResult]], list[Score]]
    skipped: tuple[Score, ...] = ()

    def scores(self, results: Sequence[ItemResult]) -> list[Score]:
        """Return every score of the task, skipped parts last."""
        return [*(self.summarize(results) if self.items else []), *self.skipped]


def skipped_task(*scores: Score) -> Task:
    """Return a task that has nothing to run."""
    return Task([], lambda results: [], scores)
