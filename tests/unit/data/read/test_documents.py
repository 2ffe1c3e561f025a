from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from data_sets import open_stream
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from sisa_scale.data.read.documents import number_documents, separate_targets

EOS = 0


def test_the_end_belongs_to_the_document_it_ends() -> None:
    tokens = np.array([[5, 6, EOS, 7, EOS, EOS, 8], [EOS, 1, 2, 3, 4, 5, EOS]])
    assert number_documents(tokens, EOS).tolist() == [[0, 0, 0, 1, 1, 2, 3], [0, 1, 1, 1, 1, 1, 1]]


@given(numpy_st.arrays(np.uint16, st.tuples(st.integers(0, 4), st.integers(2, 40)), elements=st.integers(0, 5)))
def test_targets_stay_in_their_document(tokens: np.ndarray) -> None:
    targets = tokens[:, 1:].astype(np.int64)
    documents = separate_targets(tokens, targets, EOS)
    assert documents.shape == targets.shape
    assert documents.dtype == np.int32
    whole = number_documents(tokens, EOS)
    crosses = whole[:, 1:] != whole[:, :-1]
    assert (targets[crosses] == -100).all()
    assert (targets[~crosses] == tokens[:, 1:][~crosses]).all()
    for row, numbers in zip(tokens[:, :-1], documents, strict=True):
        groups = [[token for token, _ in pairs] for _, pairs in groupby(zip(row, numbers, strict=True), lambda p: p[1])]
        assert all(EOS not in group[:-1] for group in groups)
        assert all(group[-1] == EOS for group in groups[:-1])


def test_batches_of_separate_documents(built: Path) -> None:
    joined, separate = (open_stream(built, documents=documents).batch(7, 1, 2) for documents in ("joined", "separate"))
    assert joined.document_BL is None
    assert separate.document_BL is not None
    assert separate.document_BL.dtype == torch.int32
    assert separate.document_BL.shape == separate.tokens_BL.shape
    assert torch.equal(joined.tokens_BL, separate.tokens_BL)
    assert joined.digest == separate.digest
    is_end = joined.tokens_BL == EOS
    assert 0 < is_end.sum() < is_end.numel() / 10
    assert torch.equal(separate.targets_BL, joined.targets_BL.masked_fill(is_end, -100))
    assert separate.document_BL.max() > 0
