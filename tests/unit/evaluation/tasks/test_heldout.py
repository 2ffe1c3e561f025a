"""The held-out loss, and that of documents read apart: a real model, its documents packed and alone."""

from typing import Any

import numpy as np
import pytest
import torch
from zoo import decoder, tiny

from sisa_scale.evaluation.scoring import Item, ItemResult, TokenScores, score_items
from sisa_scale.evaluation.tasks.heldout import heldout_scores, heldout_task
from sisa_scale.models.decoder import Decoder

EOS = 0
NUMBERS: dict[str, Any] = {"bytes_per_token": 4.0, "unigram_entropy": 5.0}


@pytest.fixture(scope="module")
def model() -> Decoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = decoder(tiny("pattern")).double()
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.data.mul_(3)
    return model


@pytest.fixture(scope="module")
def sequences() -> np.ndarray:
    """Three sequences of 60 + 1 tokens; the last has no end of a document, the second many."""
    sequences = np.random.default_rng(0).integers(1, 100, (3, 61))
    sequences[0, [22, 45]] = EOS
    sequences[1, [0, 1, 9, 30, 31, 50, 60]] = EOS
    return sequences


def scorer(model: Decoder) -> Any:
    return lambda *batch: model(*batch[:2], per_token=True, document_BL=batch[2] if len(batch) > 2 else None)


def alone(model: Decoder, sequence: np.ndarray) -> tuple[float, int]:
    """Return nats and number of the targets of every document by itself."""
    nats, count = 0.0, 0
    for document in np.split(sequence, np.flatnonzero(sequence[:-1] == EOS) + 1):
        if len(document) > 1:
            tokens = torch.from_numpy(document)[None]
            scores = model(tokens[:, :-1], tokens[:, 1:], per_token=True)
            assert isinstance(scores, TokenScores)
            nats, count = nats - scores.log_probability_BL.sum().item(), count + len(document) - 1
    return nats, count


def test_the_loss_is_that_of_the_documents_alone(model: Decoder, sequences: np.ndarray) -> None:
    task = heldout_task(sequences, separate_at=EOS, **NUMBERS)
    results = score_items(task.items, scorer(model), sequence_tokens=60, batch_size=2)
    expected = [alone(model, sequence) for sequence in sequences]
    for result, (nats, count) in zip(results, expected, strict=True):
        assert result.num_tokens == count
        assert -result.log_probability == pytest.approx(nats, abs=1e-9)
    loss = sum(nats for nats, _ in expected) / sum(count for _, count in expected)
    scores = {score.metric: score.value for score in task.scores(results)}
    assert scores["loss"] == pytest.approx(loss, abs=1e-12)
    assert scores["perplexity"] == pytest.approx(np.exp(loss))
    assert scores["bits_per_byte"] == pytest.approx(loss / np.log(2) / 4)
    joined = heldout_task(sequences, **NUMBERS)
    other = score_items(joined.items, scorer(model), sequence_tokens=60, batch_size=2)
    assert [result.num_tokens for result in other] == [60, 60, 60]
    assert abs(other[0].log_probability - results[0].log_probability) > 1e-3
    assert other[2].log_probability == pytest.approx(results[2].log_probability, abs=1e-9)


def test_items_without_documents_are_scored_as_before(model: Decoder, sequences: np.ndarray) -> None:
    plain, numbered = Item(sequences[0], 30), heldout_task(sequences, separate_at=EOS, **NUMBERS).items[1]
    [result, _] = score_items([plain, numbered], scorer(model), sequence_tokens=60, batch_size=2)
    [expected] = score_items([plain], lambda t, y, d=None: scorer(model)(t, y), sequence_tokens=60, batch_size=1)
    assert result.num_tokens == 30
    assert result.log_probability == pytest.approx(expected.log_probability, abs=1e-9)


def test_a_cut_item_keeps_its_documents(model: Decoder, sequences: np.ndarray) -> None:
    item = heldout_task(sequences, separate_at=EOS, **NUMBERS).items[0]._replace(score_from=40)
    [cut] = score_items([item], scorer(model), sequence_tokens=35, batch_size=1)
    [later] = score_items([item._replace(score_from=46)], scorer(model), sequence_tokens=35, batch_size=1)
    nats, count = alone(model, sequences[0, 46:])
    assert (cut.num_tokens, later.num_tokens) == (5 + count, count)
    assert -later.log_probability == pytest.approx(nats, abs=1e-9)


def test_the_error_is_that_of_a_ratio_of_sums() -> None:
    draw = np.random.default_rng(1)
    population = [(n, -float(n * draw.normal(3, 0.2))) for n in draw.integers(20, 60, 400)]
    results = [ItemResult(n, nats, 0) for n, nats in population]
    loss, *_ = heldout_scores(results, **NUMBERS)
    tokens, nats = (np.array(column, dtype=float) for column in zip(*population, strict=True))
    assert loss.value == pytest.approx(-nats.sum() / tokens.sum())
    samples = [draw.integers(0, 400, 400) for _ in range(2000)]
    bootstrap = np.std([nats[sample].sum() / tokens[sample].sum() for sample in samples])
    assert loss.standard_error == pytest.approx(bootstrap, rel=0.1)


def test_heldout_error_is_over_sequences() -> None:
    loss, *_ = heldout_scores([ItemResult(2, -4.0, 0), ItemResult(2, -8.0, 0)], bytes_per_token=4, unigram_entropy=5)
    assert (loss.value, loss.standard_error) == (3.0, pytest.approx(1.0))


def test_held_out_sequences_are_spread_over_the_split() -> None:
    sequences = np.arange(10)[:, None].repeat(3, axis=1)
    task = heldout_task(sequences, bytes_per_token=4, unigram_entropy=5, num_sequences=4)
    assert [int(item.tokens[0]) for item in task.items] == [0, 3, 6, 9]
    assert len(heldout_task(sequences, bytes_per_token=4, unigram_entropy=5, num_sequences=99).items) == 10
