"""Padded training batches; the order of rows depends only on the key and the epoch.

Axis legend: B batch, T positions, P texts per row (one, or chosen and rejected), n rows.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from nlsr_jax.data.calibration import bucket_length, round_up
from nlsr_jax.data.examples import Encoded
from nlsr_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """The size and padding of batches.

    Attributes:
      batch_size: B.
      max_length: longest T.
      one_length: pad every batch to one T (the longest text, rounded up to a multiple of eight), so that a step
        compiles once. Otherwise T is the length of the batch's longest text, rounded up to a power of two of at
        least 32: less padding, but a handful of shapes.
      pad_id: padding token, on the right.
      drop_last: drop an epoch's last rows if they do not fill a batch. Otherwise the last batch is filled up
        with rows that have no response positions.
    """

    batch_size: int
    max_length: int
    one_length: bool = False
    pad_id: int = 0
    drop_last: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_length"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")

    def steps(self, count: int) -> int:
        """Return the number of batches in an epoch of ``count`` rows."""
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)


class Packed(NamedTuple):
    """Encoded rows, concatenated.

    Attributes:
      ids: ``[total]`` int32.
      first: ``[n, P]`` int64, offset of each text's first token in ``ids``.
      starts: ``[n, P]`` int32, offset of its response from its own first token.
      lengths: ``[n, P]`` int32, number of tokens.
    """

    ids: np.ndarray
    first: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


class Text(NamedTuple):
    """One text of each row of a batch: ``tokens [B, T]`` int32 and ``response_mask [B, T]`` bool."""

    tokens: np.ndarray
    response_mask: np.ndarray


class Batch(NamedTuple):
    """One batch.

    Attributes:
      texts: one ``Text``, or two (chosen and rejected), all of one shape.
      rows: ``[B]`` int32, index of each row in the packed rows; -1 for filler rows.
    """

    texts: tuple[Text, ...]
    rows: np.ndarray


def pack(rows: Sequence[tuple[Encoded, ...]]) -> Packed:
    """Concatenate the tokens of encoded rows.

    Args:
      rows: as ``encode`` returns them, each with the same number of texts.

    Raises:
      InputError: if there are no rows, or rows differ in their number of texts.
    """
    if len({len(row) for row in rows}) != 1:
        raise InputError("there are no rows to pack, or they differ in their number of texts")
    texts = [text for row in rows for text in row]
    shape = (len(rows), len(rows[0]))
    lengths = np.array([len(text.ids) for text in texts], np.int32)
    first = np.cumsum(lengths, dtype=np.int64) - lengths
    starts = np.array([text.start for text in texts], np.int32)
    ids = np.concatenate([text.ids for text in texts]).astype(np.int32, copy=False)
    return Packed(ids, first.reshape(shape), starts.reshape(shape), lengths.reshape(shape))


def epoch_order(key: jax.Array, epoch: int, count: int) -> np.ndarray:
    """Return the order of rows in an epoch, ``[count]``: a permutation drawn from ``fold_in(key, epoch)``.

    Only key, epoch and count matter, so a resumed run sees the same order again.
    """
    return np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), count))


def batches_in_order(packed: Packed, order: np.ndarray, shape: BatchShape, first: int = 0) -> Iterator[Batch]:
    """Yield the batches of rows in a given order.

    Args:
      packed: the rows.
      order: row indices.
      shape: size and padding of batches.
      first: index of the first batch to yield.

    Raises:
      InputError: if a text is longer than ``shape.max_length``.
    """
    longest = int(packed.lengths.max())
    if longest > shape.max_length:
        raise InputError(
            f"a row has {longest} tokens but max_length is {shape.max_length}; encode with this length"
        )
    whole = min(round_up(longest), shape.max_length)
    for step in range(first, shape.steps(len(order))):
        rows = order[step * shape.batch_size : (step + 1) * shape.batch_size]
        length = whole if shape.one_length else bucket_length(int(packed.lengths[rows].max()), shape.max_length)
        yield _batch(packed, rows, shape, length)


def training_batches(
    packed: Packed, key: jax.Array, shape: BatchShape, *, epochs: int, first_step: int = 0
) -> Iterator[Batch]:
    """Yield the batches of a training run, with a new order in every epoch.

    Args:
      packed: the rows.
      key: PRNG key of the order.
      shape: size and padding of batches.
      epochs: number of passes through the rows.
      first_step: step to start at, counted over all epochs. A resumed run gets the same batches as an
        uninterrupted one.
    """
    count = len(packed.lengths)
    steps = shape.steps(count)
    if steps == 0:
        raise InputError(f"{count} rows do not fill a batch of {shape.batch_size}; lower it or keep the last batch")
    for epoch in range(first_step // steps, epochs):
        first = first_step % steps if epoch == first_step // steps else 0
        yield from batches_in_order(packed, epoch_order(key, epoch, count), shape, first)


def _batch(packed: Packed, rows: np.ndarray, shape: BatchShape, length: int) -> Batch:
    filled = np.full(shape.batch_size, -1, np.int32)
    filled[: len(rows)] = rows
    # A filler row has length zero: only padding, no response.
    lengths = np.where(filled[:, None] >= 0, packed.lengths[filled], 0)
    position = np.arange(length)
    texts = []
    for part in range(packed.lengths.shape[1]):
        inside = position < lengths[:, part, None]
        source = np.minimum(packed.first[filled, part, None] + position, len(packed.ids) - 1)
        tokens = np.where(inside, packed.ids[source], np.int32(shape.pad_id))
        texts.append(Text(tokens, inside & (position >= packed.starts[filled, part, None])))
    return Batch(tuple(texts), filled)
