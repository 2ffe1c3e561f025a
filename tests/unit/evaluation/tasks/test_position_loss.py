import numpy as np
import pytest
import torch
from torch import Tensor

from sisa_scale.evaluation.score import Score
from sisa_scale.evaluation.scoring import TokenScores, score_items
from sisa_scale.evaluation.tasks.heldout import heldout_task
from sisa_scale.evaluation.tasks.position_loss import position_loss_task

EOS = 9


def by_token(tokens_BL: Tensor, targets_BL: Tensor, document_BL: Tensor | None = None) -> TokenScores:
    """Loses as many nats as the target says."""
    return TokenScores(-targets_BL.float(), targets_BL < 0)


def measured(sequences: np.ndarray, separate_at: int | None = None) -> dict[str, Score]:
    task = position_loss_task(sequences, separate_at=separate_at)
    scores = task.scores(score_items(task.items, by_token, sequence_tokens=sequences.shape[1] - 1, batch_size=2))
    return {score.metric: score for score in scores}


def test_the_loss_of_each_octave_of_context() -> None:
    first = [0, 1, 2, 3, 3, 4, 4, 4, 4]  # targets after 1, 2, 3 to 4, and 5 to 8 tokens
    found = measured(np.array([first, [2 * token for token in first], first]))
    assert {metric: score.value for metric, score in found.items()} == pytest.approx(
        {"upto_1": 4 / 3, "upto_2": 8 / 3, "upto_4": 4.0, "upto_8": 16 / 3}
    )
    # Losses of 1, 2 and 1 nats: a third of a nat is the standard error of their mean.
    assert found["upto_1"].standard_error == pytest.approx(1 / 3)
    assert found["upto_8"].note == "after 5 to 8 tokens"


def test_other_documents_do_not_stand_before_a_target() -> None:
    found = measured(np.array([[1, 2, 3, EOS, 5, 6, EOS, 7, 1]]), separate_at=EOS)
    assert found["upto_1"].value == pytest.approx((2 + 6 + 1) / 3)
    assert found["upto_2"].value == pytest.approx((3 + EOS) / 2)
    assert found["upto_4"].value == pytest.approx(EOS)
    assert "no document has 5 tokens" in found["upto_8"].note


def test_parts_together_are_the_heldout_loss() -> None:
    sequences = np.random.default_rng(0).integers(1, 9, (5, 65))
    found = measured(sequences)
    counts = {"upto_2": 2, "upto_4": 2, "upto_8": 4, "upto_16": 8, "upto_32": 16, "upto_64": 32}
    task = heldout_task(sequences, bytes_per_token=4.0, unigram_entropy=5.0)
    whole = task.scores(score_items(task.items, by_token, sequence_tokens=64, batch_size=2))[0]
    assert sum(counts[name] * float(score.value or 0) for name, score in found.items()) / 64 == pytest.approx(
        whole.value
    )


def test_cut_items_keep_their_parts() -> None:
    task = position_loss_task(np.arange(17)[None])
    [cut] = score_items(task.items, by_token, sequence_tokens=17, batch_size=1)
    assert torch.tensor([count for count, _ in cut.parts]).sum() == cut.num_tokens
