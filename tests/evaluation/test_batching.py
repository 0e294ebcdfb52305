"""Batches of few shapes hold every sequence once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlsr_jax.errors import InputError
from nlsr_jax.evaluation.batching import bucketed, in_order


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(1, 5), st.sampled_from(["left", "right"])
)
def test_every_sequence_comes_back_once(lengths, batch_size, side):
    sequences = [list(range(row + 1, row + 1 + length)) for row, length in enumerate(lengths)]
    seen, shapes = [], set()
    for batch in bucketed(sequences, batch_size=batch_size, max_length=100, side=side):
        assert batch.tokens.shape == batch.mask.shape
        assert batch.mask.any(axis=1).all()
        assert batch.mask[:, -1 if side == "left" else 0].all()
        for place, row in enumerate(batch.rows):
            assert batch.tokens[place][batch.mask[place]].tolist() == sequences[row]
        seen += batch.rows.tolist()
        shapes.add(batch.tokens.shape)
    assert sorted(seen) == list(range(len(sequences)))
    assert all(length % 8 == 0 or length == 100 for _, length in shapes)
    groups = [1 << max(5, (length - 1).bit_length()) for _, length in shapes]
    assert len(set(groups)) == len(groups)  # one shape a group: each compiles once
    assert all(rows <= batch_size for rows, _ in shapes)


def test_long_sequences_fill_their_batches():
    """They take as few batches as hold them, of one size, in steps of eight."""
    sequences = [[1] * 40] * 17
    shapes = [(len(b.rows), b.tokens.shape) for b in bucketed(sequences, batch_size=16, max_length=100)]
    assert shapes == [(16, (16, 40)), (1, (16, 40))]
    shapes = [(len(b.rows), b.tokens.shape) for b in bucketed(sequences, batch_size=10, max_length=100)]
    assert shapes == [(10, (10, 40)), (7, (10, 40))]
    shapes = [(len(b.rows), b.tokens.shape) for b in bucketed(sequences, batch_size=120, max_length=100)]
    assert shapes == [(17, (24, 40))]


def test_short_sequences_are_padded_to_the_longest_of_them_in_steps_of_eight():
    for longest, padded in ((3, 8), (8, 8), (9, 16), (25, 32)):
        shapes = {b.tokens.shape for b in bucketed([[1], [2] * longest], batch_size=1, max_length=100)}
        assert shapes == {(1, padded)}


def test_padding_is_on_one_side():
    (batch,) = bucketed([[5, 6], [7]], batch_size=3, max_length=4)
    assert batch.tokens.tolist() == [[5, 6, 0, 0], [7, 0, 0, 0], [5, 6, 0, 0]]
    assert batch.rows.tolist() == [0, 1]
    assert batch.mask.dtype == np.bool_


@pytest.mark.parametrize(
    ("lengths", "size", "words"), [([1, 0], 2, "row 1: 0 tokens"), ([9], 2, "9 tok"), ([1], 0, "0")]
)
def test_refused(lengths, size, words):
    with pytest.raises(InputError, match=words):
        list(bucketed([[1] * length for length in lengths], batch_size=size, max_length=8))


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(1, 40))
def test_in_the_order_of_lengths_batches_are_few_and_of_one_size(lengths, batch_size):
    sequences = [list(range(row + 1, row + 1 + length)) for row, length in enumerate(lengths)]
    found = list(in_order(sequences, batch_size=batch_size, max_length=100, side="left"))
    assert len(found) == -(-len(lengths) // batch_size)
    assert len({len(batch.tokens) for batch in found}) == 1
    rows = np.concatenate([batch.rows for batch in found])
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths)
    for batch in found:
        for place, row in enumerate(batch.rows):
            assert batch.tokens[place][batch.mask[place]].tolist() == sequences[row]
        assert batch.tokens.shape[1] - batch.mask.sum(1).max() < 4
