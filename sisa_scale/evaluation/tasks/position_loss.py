"""Task "position-loss": the held-out loss by the number of tokens that stand before its target.

The sequences are those of the task "loss". `upto_N` is over the targets after more than N / 2 and at most N tokens, the
first one over all up to N: what a model gains from more context, and where it stops to gain.

Shapes: N sequences, L length.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sisa_scale.data.read.documents import number_documents
from sisa_scale.evaluation.score import Score, mean_score, skipped_score
from sisa_scale.evaluation.scoring import Item, ItemResult
from sisa_scale.evaluation.tasks.heldout import evenly_spread, nats_by_sequence
from sisa_scale.evaluation.tasks.task import Task

if TYPE_CHECKING:
    from sisa_scale.evaluation.suite import EvaluationResources

TASK = "position-loss"
_NUM_PARTS = 6


def build(resources: "EvaluationResources", name: str) -> Task:
    """Return the task of a run."""
    separate_at = resources.tokenizer.eos_id if resources.has_separate_documents else None
    taken_NL = evenly_spread(resources.checked_sequences(), resources.num_heldout_sequences)
    return position_loss_task(taken_NL, separate_at=separate_at)


def position_loss_task(sequences_NL: np.ndarray, *, separate_at: int | None = None) -> Task:
    """Return the task over sequences of L + 1 tokens.

    separate_at: the end-of-document token, after which a model reads anew; then tokens of other documents do not count
    as standing before a target.
    """
    length = sequences_NL.shape[1] - 1
    edges = sorted({max(1, length >> halvings) for halvings in range(_NUM_PARTS)})
    before_L = np.arange(1, length + 1)
    items = []
    for tokens_L in sequences_NL:
        numbers_L = None if separate_at is None else number_documents(tokens_L[None], separate_at)[0]
        started_L = 0 if numbers_L is None else np.searchsorted(numbers_L, numbers_L[:-1])
        items.append(Item(tokens_L, 0, numbers_L, TASK, parts=np.searchsorted(edges, before_L - started_L)))
    return Task(items, lambda results: _scores(results, edges))


def _scores(results: Sequence[ItemResult], edges: Sequence[int]) -> list[Score]:
    scores = []
    for part, edge in enumerate(edges):
        counts, sums = zip(
            *(result.parts[part] if part < len(result.parts) else (0, 0.0) for result in results), strict=True
        )
        name, first = f"upto_{edge}", edges[part - 1] + 1 if part else 1
        if not sum(counts):
            reason = f"no document has {first} tokens before a target"
            scores.append(skipped_score(TASK, TASK, name, unit="nats/token", reason=reason))
            continue
        nats = nats_by_sequence(counts, sums)
        scores.append(mean_score(TASK, TASK, name, nats, unit="nats/token", note=f"after {first} to {edge} tokens"))
    return scores
