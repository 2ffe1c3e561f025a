"""Run evaluation tasks by name: `run_suite(("loss", "lambada", "needle"), scorer, resources, ...)`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from sisa_scale.config.places import imported
from sisa_scale.config.tasks import check_tasks, task_spec
from sisa_scale.errors import DataError
from sisa_scale.evaluation.score import Score
from sisa_scale.evaluation.scoring import Gather, Scorer, score_items
from sisa_scale.evaluation.tasks.lambada import OPENAI_SHA256
from sisa_scale.evaluation.tasks.task import Task, TextTokenizer


@dataclass(frozen=True, eq=False)
class EvaluationResources:
    """All that tasks are made from. Tasks are built on first use and kept, so keep this object between evaluations.

    heldout_sequences: int array (N, sequence_tokens + 1); heldout_documents: the texts of the held-out split;
    bytes_per_token: UTF-8 bytes per token of that split; unigram_entropy: nats per token of that split;
    lambada_path: OpenAI's file, None for cloze passages from `heldout_documents`; needle_lengths: input tokens, empty
    for a quarter, a half and the whole of `sequence_tokens`; trained_tokens, longest_tokens: of the sequences that the
    model was trained on and of those that it accepts, both `sequence_tokens` for None; context_multiples: the contexts
    of tasks of retrieval as multiples of trained_tokens; limits of None mean everything there is;
    questions_directory: holds the files of the multiple-choice tasks, None skips them;
    has_separate_documents: the held-out loss reads each document as if alone (all other items are one document each);
    heldout_problem: why there is no held-out text, raised by the tasks that need some.
    """

    tokenizer: TextTokenizer
    heldout_sequences: np.ndarray
    heldout_documents: Sequence[str]
    bytes_per_token: float
    unigram_entropy: float
    sequence_tokens: int
    lambada_path: Path | None = None
    lambada_sha256: str | None = OPENAI_SHA256
    num_heldout_sequences: int | None = None
    num_lambada_items: int | None = None
    num_cloze_items: int | None = None
    needle_lengths: Sequence[int] = ()
    num_needle_items: int = 100
    trained_tokens: int | None = None
    longest_tokens: int | None = None
    context_multiples: Sequence[float] = (0.25, 0.5, 1)
    questions_directory: Path | None = None
    num_questions: int | None = None
    seed: int = 0
    has_separate_documents: bool = False
    heldout_problem: DataError | None = None
    _built: dict[str, Task] = field(default_factory=dict, init=False, repr=False)

    @property
    def longest_context(self) -> int:
        """The longest context that the model accepts, in tokens."""
        return max(self.longest_tokens or 0, self.sequence_tokens)

    @property
    def context_lengths(self) -> list[int]:
        """The contexts of the tasks of retrieval in tokens, each once."""
        trained = self.trained_tokens or self.sequence_tokens
        return sorted({round(multiple * trained) for multiple in self.context_multiples})

    def check_heldout(self) -> None:
        """Raise DataError where the data set is not at hand."""
        if self.heldout_problem is not None:
            raise self.heldout_problem

    def checked_sequences(self) -> np.ndarray:
        """Return the held-out sequences; raises DataError when there is none."""
        self.check_heldout()
        shape = self.heldout_sequences.shape
        if len(shape) != 2 or shape[0] == 0 or shape[1] < 2:
            raise DataError.at(
                "held-out split",
                found=f"sequences of shape {shape}",
                allowed="one sequence or more, of sequence_tokens + 1 tokens",
                remedy="Hold out more text or evaluate on shorter sequences.",
            )
        return self.heldout_sequences

    def task(self, name: str) -> Task:
        """Return a task, built once; raises ConfigError for an unknown name and DataError for missing data."""
        if name not in self._built:
            self._built[name] = imported(task_spec(name).build)(self, name)
        return self._built[name]


def run_suite(
    tasks: Sequence[str],
    scorer: Scorer,
    resources: EvaluationResources,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    gather: Gather | None = None,
    by_length: bool = False,
    advance: Callable[[int, int], None] = lambda num_items, total: None,
) -> list[Score]:
    """Return the scores of all tasks in order, the same on every rank.

    Every rank calls this with the same tasks and resources. Items of all tasks share one queue of batches, so a short
    task costs no empty passes; see `score_items` for `rank`, `world_size`, `gather` and `by_length`. advance: told of
    the items of a pass when it is done, and of the number of all items.
    """
    check_tasks(tasks)
    built = [resources.task(name) for name in tasks]
    items = [item for task in built for item in task.items]
    results = score_items(
        items,
        scorer,
        sequence_tokens=resources.sequence_tokens,
        batch_size=batch_size,
        device=device,
        rank=rank,
        world_size=world_size,
        gather=gather,
        by_length=by_length,
        advance=lambda num_items: advance(num_items, len(items)),
    )
    scores: list[Score] = []
    for task in built:
        scores += task.scores(results[: len(task.items)])
        results = results[len(task.items) :]
    return scores
