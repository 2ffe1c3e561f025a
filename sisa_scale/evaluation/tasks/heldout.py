"""Task "loss": how well the held-out split is predicted, beside what a unigram model would reach.

Shapes: N sequences, L length.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sisa_scale.data.read.documents import number_documents
from sisa_scale.evaluation.score import Score, mean_score, perplexity_score
from sisa_scale.evaluation.scoring import Item, ItemResult
from sisa_scale.evaluation.tasks.task import Task

if TYPE_CHECKING:
    from sisa_scale.evaluation.suite import EvaluationResources

TASK, VARIANT = "loss", "heldout"


def build(resources: "EvaluationResources", name: str) -> Task:
    """Return the task of a run."""
    return heldout_task(
        resources.checked_sequences(),
        bytes_per_token=resources.bytes_per_token,
        unigram_entropy=resources.unigram_entropy,
        num_sequences=resources.num_heldout_sequences,
        separate_at=resources.tokenizer.eos_id if resources.has_separate_documents else None,
    )


def heldout_task(
    sequences_NL: np.ndarray,
    *,
    bytes_per_token: float,
    unigram_entropy: float,
    num_sequences: int | None = None,
    separate_at: int | None = None,
) -> Task:
    """Return the task over held-out sequences of L + 1 tokens each, every target scored.

    bytes_per_token: UTF-8 bytes per token of the split; unigram_entropy: nats per token of the split under its own
    token frequencies; num_sequences: take this many, spread evenly over the split (all when None); separate_at: the
    end-of-document token, after which a model reads anew, and which has no scored target (None reads on).
    """
    taken_NL = evenly_spread(sequences_NL, num_sequences)
    documents = [None] * len(taken_NL) if separate_at is None else list(number_documents(taken_NL, separate_at))
    items = [Item(tokens_L, 0, numbers_L) for tokens_L, numbers_L in zip(taken_NL, documents, strict=True)]

    def summarize(results: Sequence[ItemResult]) -> list[Score]:
        return heldout_scores(results, bytes_per_token=bytes_per_token, unigram_entropy=unigram_entropy)

    return Task(items, summarize)


def evenly_spread(sequences_NL: np.ndarray, num_sequences: int | None) -> np.ndarray:
    """Return so many of the sequences, spread evenly over them; all when None."""
    num_available = len(sequences_NL)
    num_taken = num_available if num_sequences is None else min(num_sequences, num_available)
    taken_NL: np.ndarray = sequences_NL[np.linspace(0, num_available - 1, num_taken).round().astype(int)]
    return taken_NL


def nats_by_sequence(num_tokens: Sequence[int], log_probabilities: Sequence[float]) -> list[float]:
    """Return numbers whose mean is the loss over all tokens, and whose spread is the linearised one of that ratio.

    With equal numbers of tokens they are the losses of the sequences.
    """
    mean_tokens = sum(num_tokens) / len(num_tokens)
    loss = -sum(log_probabilities) / (len(num_tokens) * mean_tokens)
    pairs = zip(num_tokens, log_probabilities, strict=True)
    return [loss - (log_probability + loss * count) / mean_tokens for count, log_probability in pairs]


def heldout_scores(results: Sequence[ItemResult], *, bytes_per_token: float, unigram_entropy: float) -> list[Score]:
    """Return loss (nats/token), perplexity, bits per byte, and the unigram entropy (nats/token).

    The loss is the mean over scored tokens, ends of documents included. Bits per byte are those of a scored token over
    the bytes of a token of the split. Where documents are read apart, their first tokens have no score: neither their
    bits nor their bytes count, so the losses of joined and separate reading are means over different tokens.

    Standard errors are over sequences, of a ratio of sums where they have different numbers of scored tokens;
    neighbours may come from one document, which makes the errors a little too small.
    """
    nats = nats_by_sequence([result.num_tokens for result in results], [result.log_probability for result in results])
    bits_per_byte = 1 / (math.log(2) * bytes_per_token)
    return [
        mean_score(TASK, VARIANT, "loss", nats, unit="nats/token"),
        perplexity_score(TASK, VARIANT, "perplexity", nats, unit="per token"),
        mean_score(TASK, VARIANT, "bits_per_byte", nats, unit="bits/byte", scale=bits_per_byte),
        Score(
            TASK, VARIANT, "unigram_entropy", unigram_entropy, None, len(results), "nats/token",
            "the loss of always predicting token frequencies; no model is needed for it",
        ),
    ]  # fmt: skip
