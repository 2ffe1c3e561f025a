import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sisa_scale.data.tokenizer import Tokenizer
from sisa_scale.evaluation.scoring import TokenScores
from sisa_scale.evaluation.suite import EvaluationResources, run_suite


def test_an_oracle_recalls_all_and_a_guess_is_at_chance(
    tokenizer: Tokenizer, heldout_sequences: np.ndarray, induction: Callable[..., TokenScores]
) -> None:
    resources = EvaluationResources(tokenizer, heldout_sequences, [], 4.0, 5.0, 64, num_needle_items=40)
    solved = {score.metric: score for score in run_suite(["recall"], induction, resources, batch_size=16)}
    assert {metric: score.value for metric, score in solved.items()} == {
        "accuracy": 100.0, "accuracy_4_pairs": 100.0, "accuracy_16_pairs": 100.0, "accuracy_64_pairs": None
    }  # fmt: skip
    assert "128 words" in solved["accuracy_64_pairs"].note
    draw = random.Random(0)

    def guess(tokens_BL: Tensor, targets_BL: Tensor) -> TokenScores:
        """Say one of the second words."""
        said_B1 = torch.tensor([[draw.choice(row[2 : _length(row) : 2])] for row in tokens_BL.tolist()])
        return TokenScores(torch.zeros(targets_BL.shape), said_B1 == targets_BL)

    guessed = {score.metric: score for score in run_suite(["recall"], guess, resources, batch_size=16)}
    for num_pairs in (4, 16):
        score = guessed[f"accuracy_{num_pairs}_pairs"]
        assert score.value is not None and score.standard_error is not None
        assert abs(score.value - 100 / num_pairs) < 2.5 * score.standard_error


def _length(row: list[int]) -> int:
    return len(row) if 0 not in row else max(4, row.index(0, 1) - 1)
