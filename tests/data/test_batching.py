"""Training batches: every position once, an order that survives a restart, few shapes."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlsr_jax.data.batching import BatchShape, batches_in_order, epoch_order, pack, training_batches
from nlsr_jax.data.examples import Encoded
from nlsr_jax.errors import InputError

KEY = jax.random.key(3)


def make_rows(lengths, parts=1, seed=0):
    """Random rows; token ids are positive, so that padding with 0 shows."""
    rng = np.random.default_rng(seed)
    return [
        tuple(
            Encoded(rng.integers(1, 99, length + part).astype(np.int32), int(rng.integers(0, length)))
            for part in range(parts)
        )
        for length in lengths
    ]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=20),
    st.integers(1, 7),
    st.integers(1, 2),
    st.booleans(),
    st.booleans(),
)
def test_every_row_comes_once_and_whole(lengths, batch_size, parts, one_length, drop_last):
    rows = make_rows(lengths, parts)
    shape = BatchShape(batch_size, 80, one_length=one_length, drop_last=drop_last)
    order = np.random.default_rng(1).permutation(len(rows))
    seen = []
    for batch in batches_in_order(pack(rows), order, shape):
        assert batch.rows.shape == (batch_size,)
        assert len(batch.texts) == parts
        for number, row in enumerate(batch.rows):
            for part, (tokens, mask) in enumerate(batch.texts):
                expected = rows[row][part] if row >= 0 else Encoded(np.zeros(0, np.int32), 0)
                size = len(expected.ids)
                np.testing.assert_array_equal(tokens[number, :size], expected.ids)
                np.testing.assert_array_equal(tokens[number, size:], 0)
                inside = np.arange(tokens.shape[1])
                np.testing.assert_array_equal(mask[number], (inside >= expected.start) & (inside < size))
        seen += batch.rows[batch.rows >= 0].tolist()
    whole = len(rows) // batch_size * batch_size if drop_last else len(rows)
    assert seen == order[:whole].tolist()


def test_types_and_padding():
    (batch,) = batches_in_order(pack(make_rows([3, 5])), np.arange(2), BatchShape(4, 64, pad_id=7))
    tokens, mask = batch.texts[0]
    assert (tokens.dtype, mask.dtype, batch.rows.dtype) == (np.int32, np.bool_, np.int32)
    assert tokens.shape == mask.shape == (4, 32)
    assert (tokens[2:] == 7).all()
    assert not mask[2:].any()
    assert batch.rows.tolist() == [0, 1, -1, -1]


def test_shapes_are_few():
    rows = pack(make_rows(np.random.default_rng(0).integers(1, 1000, 400)))
    shapes = {b.texts[0].tokens.shape for b in training_batches(rows, KEY, BatchShape(2, 1000), epochs=2)}
    assert shapes <= {(2, n) for n in (32, 64, 128, 256, 512, 1000)}
    one = {
        b.texts[0].tokens.shape for b in training_batches(rows, KEY, BatchShape(8, 1024, one_length=True), epochs=1)
    }
    assert one == {(8, 1000)}


def test_a_step_traces_once_when_there_is_one_length():
    traces = []

    @jax.jit
    def step(tokens, mask):
        traces.append(tokens.shape)
        return (tokens * mask).sum()

    rows = pack(make_rows([5, 40, 61, 3, 9]))
    for batch in training_batches(rows, KEY, BatchShape(2, 64, one_length=True), epochs=3):
        step(*batch.texts[0])
    assert traces == [(2, 64)]


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_resumed_run_gets_the_batches_it_would_have_got(drop_last):
    rows = pack(make_rows(range(1, 24), parts=2))
    shape = BatchShape(4, 32, drop_last=drop_last)
    whole = list(training_batches(rows, KEY, shape, epochs=3))
    assert len(whole) == 3 * shape.steps(23) == (15 if drop_last else 18)
    for step in range(len(whole) + 1):
        rest = list(training_batches(rows, KEY, shape, epochs=3, first_step=step))
        assert len(rest) == len(whole) - step
        assert all(same(a, b) for a, b in zip(rest, whole[step:], strict=True))


def test_the_order_is_a_permutation_of_key_and_epoch():
    orders = [epoch_order(KEY, epoch, 100) for epoch in range(3)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({order.tobytes() for order in orders}) == 3
    np.testing.assert_array_equal(orders[1], epoch_order(KEY, 1, 100))
    np.testing.assert_array_equal(orders[1], jax.random.permutation(jax.random.fold_in(KEY, 1), 100))
    assert not np.array_equal(orders[0], epoch_order(jax.random.key(4), 0, 100))


def test_what_cannot_be_batched_is_said():
    rows = make_rows([5, 40])
    with pytest.raises(InputError, match="a row has 40 tokens but max_length is 39"):
        next(batches_in_order(pack(rows), np.arange(2), BatchShape(2, 39)))
    with pytest.raises(InputError, match="2 rows do not fill a batch of 3"):
        next(training_batches(pack(rows), KEY, BatchShape(3, 64, drop_last=True), epochs=1))
    with pytest.raises(InputError, match="batch_size is 0"):
        BatchShape(0, 64)
    with pytest.raises(InputError, match="no rows to pack, or they differ"):
        pack([])
    with pytest.raises(InputError, match="no rows to pack, or they differ"):
        pack([rows[0], rows[0] * 2])
