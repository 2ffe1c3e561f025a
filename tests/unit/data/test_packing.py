import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sisa_scale.data.packing import best_fit, is_padding, pack

EOS = 0
LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=60)


def documents(lengths: list[int]) -> list[np.ndarray]:
    """Documents that can be told apart: 1000 * (number + 1) + place, and the end."""
    return [
        np.array([*(1000 * (number + 1) + place for place in range(length - 1)), EOS], dtype=np.uint32)
        for number, length in enumerate(lengths)
    ]


@given(lengths=LENGTHS, sequence_tokens=st.sampled_from([4, 8, 16]))
@settings(deadline=None)
def test_every_token_comes_through_once_and_no_short_document_is_cut(lengths: list[int], sequence_tokens: int) -> None:
    texts = documents(lengths)
    packed = pack(texts, sequence_tokens, EOS)
    assert packed.tokens.size % sequence_tokens == 0
    assert packed.tokens.size - packed.num_padding_tokens == sum(lengths)
    assert sorted(packed.documents) == list(range(len(lengths)))
    assert packed.starts == sorted(packed.starts)
    for number, start in zip(packed.documents, packed.starts, strict=True):
        stop = start + lengths[number]
        assert packed.tokens[start:stop].tolist() == texts[number].tolist()
        if lengths[number] <= sequence_tokens:
            assert start // sequence_tokens == (stop - 1) // sequence_tokens
        else:
            assert start % sequence_tokens == 0


@given(lengths=LENGTHS, sequence_tokens=st.sampled_from([4, 8, 16]))
@settings(deadline=None)
def test_rows_alone_say_what_is_padding(lengths: list[int], sequence_tokens: int) -> None:
    packed = pack(documents(lengths), sequence_tokens, EOS)
    is_real = np.zeros(packed.tokens.size + 1, dtype=bool)
    for number, start in zip(packed.documents, packed.starts, strict=True):
        is_real[start : start + lengths[number]] = True
    stream = np.append(packed.tokens, EOS)  # the token after the last row
    rows = np.stack([stream[i : i + sequence_tokens + 1] for i in range(0, packed.tokens.size, sequence_tokens)])
    real = np.stack([is_real[i : i + sequence_tokens + 1] for i in range(0, packed.tokens.size, sequence_tokens)])
    assert (is_padding(rows, EOS) == ~real).all()


@given(lengths=st.lists(st.integers(2, 16), min_size=1, max_size=60))
def test_no_two_rows_would_fit_into_one(lengths: list[int]) -> None:
    used = [sum(lengths[number] for number in group) for group in best_fit(lengths, 16)]
    assert all(a + b > 16 for i, a in enumerate(used) for b in used[:i])


def test_the_fullest_row_that_fits_is_taken_and_groups_keep_their_order() -> None:
    assert best_fit([3, 10, 12, 4, 6], 16) == [[2, 3], [1, 4], [0]][::-1] or best_fit([3, 10, 12, 4, 6], 16) == [
        [0],
        [1, 4],
        [2, 3],
    ]
    assert best_fit([20, 12, 13, 2], 16) == [[0, 1], [2, 3]]


def test_much_text_wastes_little() -> None:
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(5, 1, 5000).astype(int), 2, None).tolist()
    packed = pack([np.full(length, 7, dtype=np.uint16) for length in lengths], 2048, EOS)
    assert packed.num_padding_tokens / packed.tokens.size < 0.01


@pytest.mark.parametrize("sequence_tokens", [8, 16])
def test_the_same_lengths_give_the_same_groups(sequence_tokens: int) -> None:
    lengths = [5, 5, 5, 3, 3, 8, 8, 2] * 9
    assert best_fit(lengths, sequence_tokens) == best_fit(list(lengths), sequence_tokens)
