import math
from collections.abc import Callable

import numpy as np
import pytest

from sisa_scale.config.tasks import task_names
from sisa_scale.data.tokenizer import Tokenizer
from sisa_scale.errors import ConfigError, DataError
from sisa_scale.evaluation.scoring import TokenScores
from sisa_scale.evaluation.suite import EvaluationResources, run_suite

Scorer = Callable[..., TokenScores]


@pytest.fixture
def resources(tokenizer: Tokenizer, heldout_sequences: np.ndarray, documents: list[str]) -> EvaluationResources:
    return EvaluationResources(
        tokenizer=tokenizer,
        heldout_sequences=heldout_sequences,
        heldout_documents=documents,
        bytes_per_token=4.0,
        unigram_entropy=5.0,
        sequence_tokens=128,
        num_heldout_sequences=3,
        num_cloze_items=5,
        needle_lengths=(96,),
        num_needle_items=4,
    )


def test_all_tasks_share_one_pass(resources: EvaluationResources, uniform: Scorer) -> None:
    tasks = task_names()
    scores = run_suite(tasks, uniform, resources, batch_size=3)
    assert tuple(dict.fromkeys(score.task for score in scores)) == tasks
    loss = next(score for score in scores if score.metric == "loss")
    assert loss.value == pytest.approx(math.log(64))
    assert loss.standard_error == pytest.approx(0.0, abs=1e-6)
    assert next(score for score in scores if score.metric == "bits_per_byte").value == pytest.approx(6 / 4)
    assert next(score for score in scores if score.metric == "perplexity").value == pytest.approx(64)
    assert next(score for score in scores if score.metric == "unigram_entropy").value == 5.0


def test_tasks_are_built_once_and_give_the_same_scores(resources: EvaluationResources, induction: Scorer) -> None:
    first = run_suite(("needle", "loss"), induction, resources, batch_size=4)
    assert resources.task("needle") is resources.task("needle")
    assert first == run_suite(("needle", "loss"), induction, resources, batch_size=2)


def test_unknown_task(resources: EvaluationResources, oracle: Scorer) -> None:
    with pytest.raises(ConfigError, match=r"'lambda'.*Did you mean 'lambada'\?"):
        run_suite(("loss", "lambda"), oracle, resources, batch_size=4)


def test_no_heldout_text(resources: EvaluationResources) -> None:
    empty = EvaluationResources(resources.tokenizer, np.zeros((0, 129)), [], 4.0, 5.0, 128)
    with pytest.raises(DataError, match=r"shape \(0, 129\)"):
        empty.task("loss")
